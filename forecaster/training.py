"""Fitting a network to a fleet: truncated back-propagation through time.

Letters: T windows, B series of a batch, F inputs, N horizon, Q quantiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from forecaster.components.inputs import network_inputs
from forecaster.components.network import Network, pinball_loss
from forecaster.config import NetworkConfig, TrainingConfig, WindowConfig
from forecaster.model import Forecaster
from forecaster.state import Floats, Ints
from forecaster.threads import torch_threads
from forecaster.windows import Windows, aggregate, observed
from schemas.errors import DataError

_TARGET_CLIP = 20.0  # in scales: one broken sensor must not own the gradient
_BATCH_SERIES = 512
_LARGEST = 1e150  # a window may be the sum of many rows, each of which is at most `observations.LARGEST`

Epoch = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What a training run made.

    Attributes:
        forecaster: the weights of the best epoch.
        history: per epoch ``epoch, train_loss, validation_loss, validation_mae, seconds`` (losses are mean
            pinball in scales; ``validation_*`` are absent where nothing was held out).
    """

    forecaster: Forecaster
    history: list[Epoch]


@dataclass(frozen=True)
class _Batch:
    """Prepared tensors of the ``B`` series ``series_ids``, each beginning at its own first value.

    ``x`` ``[T, B, F]``, ``target`` ``[T, B, N]`` (NaN where nothing came), ``held_out`` ``[T, B, N]`` bool,
    and ``weight`` ``[T, B, 1]``: the scale of the moment over the series' average one. Targets are in scales
    of the moment, people read errors in the series' unit: an error in a storm weighs what it weighs to them.
    """

    series_ids: tuple[str, ...]
    x: Tensor
    target: Tensor
    held_out: Tensor
    weight: Tensor

    def targets(self, held_out: bool, part: slice = slice(None)) -> Tensor:
        """The targets of ``part`` that are held out, or those that are learned from; NaN for the others."""
        return torch.where(self.held_out[part] == held_out, self.target[part], torch.nan)


def train(
    windows: Windows | pl.DataFrame,
    network: NetworkConfig | None = None,
    training: TrainingConfig | None = None,
    window_config: WindowConfig | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Fits a network to all series of ``windows``, or of an observation frame that is aggregated first.

    Every series is run from its first value to its end with its state carried: the loss is summed over
    every window and horizon of a segment, gradients stop at the segment's beginning, the state does not.
    The last ``training.validation`` of the windows only score epochs. One seed, one machine and one number
    of threads give the same weights, bit for bit.

    Raises:
        DataError: no series is long enough to learn from, or the loss is no number any more, or would be; the
            line names the series.
    """
    network, training = network or NetworkConfig(), training or TrainingConfig()
    window_config = window_config or WindowConfig()
    if isinstance(windows, pl.DataFrame):
        windows = aggregate(windows, window_config).windows
    batches = _prepare(observed(windows, window_config), network, training, window_config)
    with torch_threads(training.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        module = Network(network, training.dropout)
        best, history = _fit(module, batches, training, torch.tensor(network.quantiles), on_epoch)
    module.load_state_dict(best)
    return Trained(Forecaster(network, window_config, module), history)


def _fit(
    module: Network,
    batches: list[_Batch],
    training: TrainingConfig,
    levels: Tensor,
    on_epoch: Callable[[Epoch], None],
) -> tuple[dict[str, Tensor], list[Epoch]]:
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    segments = sum(len(range(0, len(batch.x), training.segment)) for batch in batches)
    # A run of few steps ends before its schedule does, which divides by the length of its warm-up.
    steps = max(segments * training.epochs + 1, 20)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=steps, pct_start=0.2
    )
    history: list[Epoch] = []
    best, lowest = _weights(module), float("inf")
    weight = _horizon_weight(batches)
    for number in range(1, training.epochs + 1):
        began = time.monotonic()
        module.train()
        losses = []
        for batch in batches:
            for part, hidden, cell in _segments(module, batch, training.segment):
                quantiles = module(batch.x[part], hidden, cell)[0]
                target = batch.targets(False, part)
                loss = pinball_loss(quantiles, target, levels, weight * batch.weight[part])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
                if not torch.isfinite(loss + norm):
                    raise _ran_away([batch], weight, number)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        epoch: Epoch = {"epoch": number, "train_loss": float(np.mean(losses))}
        epoch |= _validate(module, batches, training.segment, levels, weight)
        if not np.isfinite(list(epoch.values())).all():
            raise _ran_away(batches, weight, number)
        epoch["seconds"] = time.monotonic() - began
        history.append(epoch)
        on_epoch(epoch)
        score = epoch.get("validation_loss", epoch["train_loss"])
        if score < lowest:
            best, lowest = _weights(module), score
    return best, history


def _ran_away(batches: list[_Batch], weight: Tensor, epoch: int) -> DataError:
    """What to say when the loss is no number any more: the series that pulls hardest at the weights."""
    pulls = {}
    for batch in batches:
        pull = (batch.target.abs() * weight * batch.weight).nanmean(dim=(0, 2)).nan_to_num(nan=0.0)
        pulls[batch.series_ids[int(pull.argmax())]] = float(pull.max())
    worst = max(pulls, key=pulls.__getitem__)
    return DataError(
        f"training stopped in epoch {epoch}: its loss is no number any more; series {worst!r} pulls hardest: "
        "look at its values, or lower training.learning_rate"
    )


def _horizon_weight(batches: list[_Batch]) -> Tensor:
    """``[N]`` what a unit of error weighs at each horizon: the less a series moves, the more.

    Without it the far horizons, where persistence is some times worse, take all of the gradient.
    """
    moved = torch.stack([batch.targets(False).abs().nanmean(dim=(0, 1)) for batch in batches]).nanmean(dim=0)
    weight = 1.0 / moved.clamp(min=1e-3)
    # A horizon beyond every series has nothing to weigh; it must not make the weights of the others NaN.
    return torch.nan_to_num(weight / weight.nanmean(), nan=1.0)


def _weights(module: Network) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def _segments(module: Network, batch: _Batch, length: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Segments of a batch that are not all held out, with the state that each begins from."""
    hidden, cell = module.initial(batch.x.shape[1])
    for first in range(0, len(batch.x), length):
        part = slice(first, first + length)
        if batch.held_out[part].all():
            return
        yield part, hidden, cell
        # The state that the next segment begins from is made by the weights of now, not those of the step
        # before: a second pass without gradients costs a third and keeps state and weights together.
        with torch.no_grad():
            _, hidden, cell = module(batch.x[part], hidden.detach(), cell.detach())


@torch.no_grad()
def _validate(module: Network, batches: list[_Batch], length: int, levels: Tensor, weight: Tensor) -> Epoch:
    """Loss and absolute error of the median over the held-out windows, the state carried up to them."""
    module.eval()
    loss, error, count = 0.0, 0.0, 0
    middle = module.config.quantiles.index(0.5)
    for batch in batches:
        hidden, cell = module.initial(batch.x.shape[1])
        for first in range(0, len(batch.x), length):
            part = slice(first, first + length)
            quantiles, hidden, cell = module(batch.x[part], hidden, cell)
            target = batch.targets(True, part)
            known = int((~torch.isnan(target)).sum())
            if known:
                loss += float(pinball_loss(quantiles, target, levels, weight * batch.weight[part])) * known
                error += float((quantiles[middle] - target).abs().nansum())
                count += known
    return {"validation_loss": loss / count, "validation_mae": error / count} if count else {}


def _prepare(
    windows: Windows, network: NetworkConfig, training: TrainingConfig, window_config: WindowConfig
) -> list[_Batch]:
    """Series from their first value on, longest first, in batches of similar length."""
    _check_size(windows)
    has_value = ~np.isnan(windows.values)
    if not has_value.any():
        raise DataError("no series has a value: nothing to train on")
    begins = has_value.argmax(axis=0)
    lengths = np.where(has_value.any(axis=0), len(windows.values) - begins, 0)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 1]
    if not len(order):
        raise DataError("no series has two windows between its first value and its end: nothing to train on")
    held_from = held_out_from(len(windows.values), training)
    batches = [
        _batch(windows, order[i : i + _BATCH_SERIES], begins, held_from, network, window_config)
        for i in range(0, len(order), _BATCH_SERIES)
    ]
    if all(bool(batch.targets(False).isnan().all()) for batch in batches):
        raise DataError(
            "no series has a second value before the held-out windows: nothing to train on "
            "(give more windows, or a smaller training.validation)"
        )
    return batches


def _check_size(windows: Windows) -> None:
    """Refuses values whose moments would overflow: rows are bounded by their schema, windows are not."""
    largest = np.fmax.reduce(np.abs(windows.values), axis=0, initial=0.0)
    if (largest > _LARGEST).any():
        name = windows.series_ids[int(largest.argmax())]
        raise DataError(
            f"series {name!r} reaches {largest.max():g}, whose square leaves no room in a float64: take it "
            "out, or divide it by a power of ten"
        )


def held_out_from(windows: int, training: TrainingConfig) -> int:
    """Row of the first of ``windows`` that only scores epochs; nothing is learned from it or after it."""
    return windows - round(training.validation * windows)


def _batch(
    windows: Windows,
    index: Ints,
    begins: Ints,
    held_from: int,
    network: NetworkConfig,
    window_config: WindowConfig,
) -> _Batch:
    length = len(windows.values) - int(begins[index].min())
    row = begins[index][None, :] + np.arange(length)[:, None]
    there = row < len(windows.values)
    values: Floats = windows.values[np.minimum(row, len(windows.values) - 1), index[None, :]]
    values = np.where(there, values, np.nan)
    series = len(index)
    start = windows.start + begins[index]
    inputs = network_inputs(values, start, window_config.freq_s, network)
    target = np.full((length, series, network.horizon), np.nan, np.float32)
    for n in range(1, min(network.horizon, length - 1) + 1):
        change = (values[n:] - inputs.last[:-n]) / inputs.scale[:-n]
        target[:-n, :, n - 1] = np.clip(change, -_TARGET_CLIP, _TARGET_CLIP)
    # A target is held out if its own window is: near horizons are learned from up to the very border.
    held_out = (row[:, :, None] + np.arange(1, network.horizon + 1)) >= held_from
    # The average scale knows nothing of what is held out, but where the series begins there and only scores.
    known = ~held_out[:, :, 0] | held_out[:, :, 0].all(axis=0)
    average = (inputs.scale * known).sum(axis=0) / known.sum(axis=0)
    weight = (inputs.scale / average).astype(np.float32)[:, :, None]
    return _Batch(
        tuple(windows.series_ids[i] for i in index),
        torch.from_numpy(inputs.x),
        torch.from_numpy(target),
        torch.from_numpy(held_out),
        torch.from_numpy(weight),
    )
