"""Fitting a network to a fleet: truncated back-propagation through time.

In two phases. First the number of epochs is *chosen*: the network learns from the first windows, and those
that follow score every epoch; a last part is left alone, for a backtest of what was chosen. Then it is
*refit*, from the same first weights, to all windows for that many epochs: it should have seen the newest.

Letters: N horizon, Q quantiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.threads import compute_threads
from forecaster.time.size_check import check_size
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, aggregate, observed
from forecaster.training.batches import Fleet, fleet_of
from forecaster.training.cold_start import cold_loss, fit_of_static
from forecaster.training.fit_ridge import fit_linear, typical_change
from forecaster.training.losses import EVERY, Weighing, pinball_loss, ran_away, weighing_of
from forecaster.training.segments import Segment

_LEAST_SCHEDULE = (
    10  # steps; a one-cycle schedule of fewer divides by the length of its warm-up, which is none
)

_KEEPS = 0.99  # of the running mean of weights, at each step

Epoch = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What a training run made.

    Attributes:
        forecaster: what to forecast with: refit to all windows, or the chosen one where ``training.refit`` is
            off or nothing was held out.
        chosen: the weights of the best epoch, which nothing of the backtest's windows has touched; those
            before the first one, where no epoch did better.
        history: per epoch of the first phase ``epoch, train_loss, validation_loss, validation_skill,
            seconds``. Losses are mean pinball in scales. The skill is 1 minus the pinball loss over that of
            persistence, averaged over horizons: no setting changes its unit. ``validation_*`` are absent
            where nothing was held out to score epochs.
        epochs: how many of them the chosen weights have seen; 0 where the linear part as fitted did best.
        refit_history: per epoch of the second phase ``epoch, refit_loss, refit_seconds``.
    """

    forecaster: Forecaster
    chosen: Forecaster
    history: list[Epoch]
    epochs: int
    refit_history: list[Epoch] = field(default_factory=list)


def train(
    windows: Windows | pl.DataFrame,
    network: NetworkConfig | None = None,
    training: TrainingConfig | None = None,
    window_config: WindowConfig | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    online: OnlineConfig | None = None,
    tables: Tables | None = None,
) -> Trained:
    """Fits a network to all series of ``windows``, or of an observation frame that is aggregated first.

    Every series is run from its first value to its end with its state carried: the loss is summed over
    every window and horizon of a segment, gradients stop at the segment's beginning, the state does not.
    Batches of series come in another order each epoch. One seed, one machine and one number of threads give
    the same weights, bit for bit.

    Args:
        windows: what to learn from, its last parts held out as `training` says until the second phase.
        network: the shape of the network.
        training: how it is fitted.
        window_config: how rows become windows.
        on_epoch: called after every epoch of both phases.
        online: what will learn beside the network as it runs.
        tables: what is known beside the values.

    Raises:
        ConfigError: windows have covariates, and the network has no decoder to read them.
        DataError: no series is long enough to learn from, or the loss is no number any more, or would be; the
            line names the series.
    """
    network, training = network or NetworkConfig(), training or TrainingConfig()
    window_config, online = window_config or WindowConfig(), online or OnlineConfig()
    if isinstance(windows, pl.DataFrame):
        windows = aggregate(windows, window_config).windows
    windows = observed(windows, window_config)
    check_size(windows)
    validated_from, judged_from = held_out_from(len(windows.values), training)

    def fleet(part: Windows, held_from: int) -> Fleet:
        freq, gap = window_config.frequency, window_config.max_gap
        # How columns become features is learned as weights are, from what is not held out.
        covariates = Covariates.fitted(tables or Tables(), windows, freq, network.decoder, held_from)
        return fleet_of(part, network, freq, training.batch_series, held_from, covariates, gap)

    with compute_threads(training.threads), torch.random.fork_rng(devices=[]):
        early = fleet(windows.rows(0, judged_from), validated_from)
        module, history, epochs = _choose(early, training, on_epoch)
        chosen = Forecaster(network, window_config, module, online, early.covariates)
        if not training.refit or validated_from == len(windows.values):
            return Trained(chosen, chosen, history, epochs)
        whole = fleet(windows, len(windows.values))
        module, refit_history = _refit(whole, training, epochs, on_epoch)
    forecaster = Forecaster(network, window_config, module, online, whole.covariates)
    return Trained(forecaster, chosen, history, epochs, refit_history)


def held_out_from(windows: int, training: TrainingConfig) -> tuple[int, int]:
    """How the rows of ``windows`` are parted while epochs are chosen.

    Returns:
        Row of the first window that only scores epochs, and of the first that is left for a backtest.
    """
    judged_from = windows - round(training.backtest * windows)
    return judged_from - round(training.validation * windows), judged_from


def loss_of(epoch: Epoch) -> float:
    """The loss that an epoch is judged by: on held-out windows where there are any."""
    return next(epoch[name] for name in ("validation_loss", "train_loss", "refit_loss") if name in epoch)


def _choose(
    fleet: Fleet, training: TrainingConfig, on_epoch: Callable[[Epoch], None]
) -> tuple[Network, list[Epoch], int]:
    """The network with the weights of the best epoch, all epochs, and the best one's number."""
    module, fleet = _seeded(fleet, training)
    weighing = weighing_of(fleet, training.segment)
    history: list[Epoch] = []
    # A fleet of few series is often best served by the linear part as it was fitted.
    unlearned = _validate(module, fleet, training.segment, weighing)
    best, lowest, chosen = _weights(module), unlearned.get("validation_loss", float("inf")), 0
    began = time.monotonic()
    for number, loss in enumerate(_epochs(module, fleet, training, weighing), 1):
        epoch: Epoch = {"epoch": number, "train_loss": loss}
        epoch |= _validate(module, fleet, training.segment, weighing)
        if not np.isfinite(list(epoch.values())).all():
            raise ran_away(fleet, range(len(fleet.batches)), training.segment, weighing, number)
        epoch["seconds"] = time.monotonic() - began
        history.append(epoch)
        on_epoch(epoch)
        if loss_of(epoch) < lowest:
            best, lowest, chosen = _weights(module), loss_of(epoch), number
        began = time.monotonic()
    module.load_state_dict(best)
    return module, history, chosen


def _refit(
    fleet: Fleet, training: TrainingConfig, epochs: int, on_epoch: Callable[[Epoch], None]
) -> tuple[Network, list[Epoch]]:
    """The network after ``epochs`` epochs over all windows, under the schedule by which these were chosen."""
    module, fleet = _seeded(fleet, training)
    weighing = weighing_of(fleet, training.segment)
    history: list[Epoch] = []
    began = time.monotonic()
    for number, loss in enumerate(islice(_epochs(module, fleet, training, weighing), epochs), 1):
        epoch: Epoch = {"epoch": number, "refit_loss": loss, "refit_seconds": time.monotonic() - began}
        history.append(epoch)
        on_epoch(epoch)
        began = time.monotonic()
    return module, history


def _seeded(fleet: Fleet, training: TrainingConfig) -> tuple[Network, Fleet]:
    """A network with its linear part fitted and other weights as drawn, and the fleet as it sees it."""
    torch.manual_seed(training.seed)
    features = fleet.covariates.features
    known, static = features.known_count, features.static_count
    module = Network(fleet.network, training.dropout, known, static, features.observed)
    if features.static_count:
        module.of_static.copy_(torch.from_numpy(fit_of_static(fleet)))
    prior = typical_change(fleet)
    module.prior.fill_(prior)
    if fleet.network.linear:
        module.ridge.copy_(torch.from_numpy(fit_linear(fleet.knowing(None, prior))))
    return module, fleet.knowing(module.ridge.numpy() if fleet.network.linear else None, prior)


def _epochs(module: Network, fleet: Fleet, training: TrainingConfig, weighing: Weighing) -> Iterator[float]:
    """Trains an epoch at a time and yields its mean loss.

    While the caller has it, the network's weights are running means of those of the last steps (Polyak &
    Juditsky 1992, "Acceleration of stochastic approximation by averaging").
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    steps = fleet.steps(training.segment) * training.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=max(steps, _LEAST_SCHEDULE), pct_start=0.2
    )
    levels, chance = torch.tensor(fleet.network.quantiles), np.random.default_rng(training.seed)
    means, step = _weights(module), 0
    for number in range(1, training.epochs + 1):
        module.train()
        losses = []
        for batch in chance.permutation(len(fleet.batches)):
            made = fleet.batch(batch)
            static = made.static()
            hidden, cell = module.initial(len(fleet.batches[batch]), static)
            count = fleet.segments_to_learn_from(batch, training.segment)
            segments = made.segments(training.segment, EVERY, chance)
            for segment in islice(segments, count):
                quantiles, hidden, cell = _forecast(module, segment, hidden, cell)
                loss = pinball_loss(quantiles, segment.learned, levels, weighing.learned * segment.weight)
                if static is not None and segment.ahead is not None:
                    loss = loss + cold_loss(module, segment, static, levels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
                if not torch.isfinite(loss + norm):
                    raise ran_away(fleet, [batch], training.segment, weighing, number)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                hidden, cell, step = hidden.detach(), cell.detach(), step + 1
                _follow(means, module, min(_KEEPS, (1 + step) / (10 + step)))
        trained = _weights(module)
        module.load_state_dict(means)
        yield float(np.mean(losses))
        module.load_state_dict(trained)


def _follow(means: dict[str, Tensor], module: Network, keeps: float) -> None:
    for name, weight in module.state_dict().items():
        means[name].lerp_(weight, 1.0 - keeps)


def _forecast(
    module: Network, segment: Segment, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return module(segment.x, hidden, cell, experts=segment.experts, rows=segment.rows, known=segment.known)


@torch.no_grad()
def _validate(module: Network, fleet: Fleet, length: int, weighing: Weighing) -> Epoch:
    """Loss and skill over the held-out windows, the state carried up to them."""
    if fleet.held_from >= len(fleet.windows.values):
        return {}
    module.eval()
    levels = torch.tensor(fleet.network.quantiles)
    loss, lost, count = 0.0, 0.0, 0
    for number in range(len(fleet.batches)):
        batch = fleet.batch(number)
        hidden, cell = module.initial(len(batch.series_ids), batch.static())
        for segment in batch.segments(length, EVERY):
            quantiles, hidden, cell = _forecast(module, segment, hidden, cell)
            known = int((~torch.isnan(segment.held_out)).sum())
            if known:
                target, unit = segment.held_out, segment.unit
                weight = weighing.learned * segment.weight
                loss += float(pinball_loss(quantiles, target, levels, weight)) * known
                lost += float(pinball_loss(quantiles, target, levels, weighing.skill * unit)) * known
                count += known
    if not count:
        return {}
    # Where nothing moved, persistence was right and nobody can be better.
    skill = 1.0 - lost if weighing.skill.any() else 0.0
    return {"validation_loss": loss / count, "validation_skill": skill}


def _weights(module: Network) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}
