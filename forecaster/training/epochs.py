"""Run the epochs of a training, and score an epoch on the validation windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from forecaster.components.network.network import Network
from forecaster.config import TrainingConfig
from forecaster.training.batches import Fleet
from forecaster.training.cold_start import cold_loss
from forecaster.training.losses import WINDOWS_PER_TARGET, HorizonWeights, divergence_error, pinball_loss
from forecaster.training.segments import Segment

# A one-cycle schedule of fewer steps could have a warm-up of 0 steps, and would then divide by 0.
_LEAST_SCHEDULE = 10

Epoch = dict[str, float]
"""Losses, skill and seconds of one epoch, by name; see `forecaster.training.train.Trained`."""


_KEEPS = 0.99  # an update of the running means of the weights keeps at most this share of the old means


def run_epochs(
    module: Network, fleet: Fleet, training: TrainingConfig, weighing: HorizonWeights
) -> Iterator[float]:
    """Train the network one epoch at a time, and yield the mean loss of each epoch.

    While the caller handles an epoch, the weights of the network are running means over the last steps
    (Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging").
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    steps = fleet.steps(training.segment) * training.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=max(steps, _LEAST_SCHEDULE), pct_start=0.2
    )
    levels, rng = torch.tensor(fleet.network.quantiles), np.random.default_rng(training.seed)
    means, step = weights_of(module), 0
    for number in range(1, training.epochs + 1):
        module.train()
        losses = []
        for batch in rng.permutation(len(fleet.batches)):
            data = fleet.batch(batch)
            static = data.static()
            hidden, cell = module.initial(len(fleet.batches[batch]), static)
            count = fleet.count_training_segments(batch, training.segment)
            segments = data.segments(training.segment, WINDOWS_PER_TARGET, rng)
            for segment in islice(segments, count):
                quantiles, hidden, cell = _forecast(module, segment, hidden, cell)
                loss = pinball_loss(quantiles, segment.learned, levels, weighing.learned * segment.weight)
                if static is not None and segment.ahead is not None:
                    loss = loss + cold_loss(module, segment, static, levels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
                if not torch.isfinite(loss + norm):
                    raise divergence_error(fleet, [batch], training.segment, weighing, epoch=number)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                hidden, cell, step = hidden.detach(), cell.detach(), step + 1
                _update_means(means, module, min(_KEEPS, (1 + step) / (10 + step)))
        trained = weights_of(module)
        module.load_state_dict(means)
        yield float(np.mean(losses))
        module.load_state_dict(trained)


def _update_means(means: dict[str, Tensor], module: Network, keeps: float) -> None:
    """Replace each running mean by ``keeps`` times itself plus ``1 - keeps`` times the current weight."""
    for name, weight in module.state_dict().items():
        means[name].lerp_(weight, 1.0 - keeps)


def _forecast(
    module: Network, segment: Segment, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the quantiles forecast at ``segment.rows``, and the hidden and cell state after the segment."""
    return module(segment.x, hidden, cell, experts=segment.experts, rows=segment.rows, known=segment.known)


@torch.no_grad()
def validate(module: Network, fleet: Fleet, length: int, weighing: HorizonWeights) -> Epoch:
    """Return the network's loss and skill on the held-out windows; an empty dict if no target is held out."""
    if fleet.held_from >= len(fleet.windows.values):
        return {}
    module.eval()
    levels = torch.tensor(fleet.network.quantiles)
    loss, relative, count = 0.0, 0.0, 0
    for number in range(len(fleet.batches)):
        batch = fleet.batch(number)
        hidden, cell = module.initial(len(batch.series_ids), batch.static())
        for segment in batch.segments(length, WINDOWS_PER_TARGET):
            quantiles, hidden, cell = _forecast(module, segment, hidden, cell)
            target_count = int((~torch.isnan(segment.held_out)).sum())
            if target_count:
                target, unit = segment.held_out, segment.unit_per_change
                weight = weighing.learned * segment.weight
                loss += float(pinball_loss(quantiles, target, levels, weight)) * target_count
                weight = weighing.skill * unit
                relative += float(pinball_loss(quantiles, target, levels, weight)) * target_count
                count += target_count
    if not count:
        return {}
    # If persistence makes no error on the held-out windows, no forecast can be better: the skill is 0.
    skill = 1.0 - relative if weighing.skill.any() else 0.0
    return {"validation_loss": loss / count, "validation_skill": skill}


def weights_of(module: Network) -> dict[str, Tensor]:
    """Return a copy of the network's weights and buffers."""
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}
