"""Loss functions for training, and the weight of an error at each horizon.

Letters: N horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.training.batches import Fleet
from schemas.errors import DataError

# Train on forecasts from every fourth window only: neighbouring windows have nearly the same targets.
WINDOWS_PER_TARGET = 4


def pinball_loss(quantiles: Tensor, target: Tensor, levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean pinball loss over the targets that are not NaN (Koenker & Bassett 1978).

    Args:
        quantiles: ``[Q, ...]`` forecasts.
        target: ``[...]`` actuals; NaN where missing.
        levels: ``[Q]`` quantile levels.
        weight: weight of each error, in a shape that broadcasts against ``target``; 1 by default.

    Returns:
        A scalar; 0 if every target is NaN.
    """
    known = ~torch.isnan(target)
    error = torch.where(known, target, 0.0) - quantiles
    level = levels.view(-1, *[1] * target.dim())
    loss = torch.maximum(level * error, (level - 1) * error)
    loss = loss * known if weight is None else loss * known * weight
    return loss.sum() / (known.sum().clamp(min=1) * len(levels))


@dataclass(frozen=True)
class HorizonWeights:
    """Two weights for each horizon: one for the training loss, one for the skill in validation.

    Attributes:
        learned: weights in training, which are larger where the errors of the linear part are smaller.
            Without them the far horizons would dominate the gradient, as their errors are several times
            larger.
        skill: weights on held-out windows: the inverse of the pinball loss of persistence on these windows,
            divided by the number of horizons. Errors are in multiples of each series' mean change. The sum of
            weighted losses is 1 minus the skill.
    """

    learned: Tensor
    skill: Tensor


def horizon_weights(fleet: Fleet, length: int) -> HorizonWeights:
    """Compute two weights for each horizon: one for the training loss, one for the skill in validation.

    The training weights are computed from errors of the linear part, the skill weights from errors of
    persistence.

    Args:
        fleet: the series to learn from.
        length: windows in a segment.

    Raises:
        DataError: there is no target to learn from.
    """
    horizon = fleet.network.horizon
    moved, target_count, persistence = (torch.zeros(horizon, dtype=torch.float64) for _ in range(3))
    for number in range(len(fleet.batches)):
        for segment in fleet.batch(number).segments(length, WINDOWS_PER_TARGET):
            target = segment.learned
            remaining = target if segment.experts is None else target - segment.experts[0]
            moved += (remaining.abs() * segment.weight).nansum(dim=(0, 1))
            target_count += (~torch.isnan(target)).sum(dim=(0, 1))
            # Averaged over levels symmetric about 0.5, persistence's pinball loss is half its absolute error.
            persistence += 0.5 * (segment.held_out.abs() * segment.unit_per_change).nansum(dim=(0, 1))
    if not target_count.any():
        raise DataError(
            "no series has a second value before the held-out windows: nothing to train on "
            "(give more windows, or a smaller training.validation or training.backtest)"
        )
    weight = 1.0 / (moved / target_count).clamp(min=1e-3)
    # A horizon that is longer than every series has no targets: change its weight from NaN to 1.
    learned = torch.nan_to_num(weight / weight.nanmean(), nan=1.0)
    has_loss = persistence > 0
    inverse = torch.where(has_loss, 1.0 / torch.where(has_loss, persistence, 1.0), 0.0)
    skill = inverse / has_loss.sum().clamp(min=1)
    return HorizonWeights(learned.float(), skill.float())


def divergence_error(
    fleet: Fleet, batches: range | list[int], length: int, weighing: HorizonWeights, epoch: int
) -> DataError:
    """Return the error for a loss that is not finite; its message names the series with the largest targets.

    Args:
        fleet: the series to learn from.
        batches: numbers of the batches among which to look for the series with the largest mean target.
        length: windows in a segment.
        weighing: weights of the errors.
        epoch: number of the epoch in which training stopped.
    """
    largest_targets: dict[str, float] = {}
    for number in batches:
        batch = fleet.batch(number)
        mean_target, count = torch.zeros(len(batch.series_ids)), torch.zeros(len(batch.series_ids))
        for segment in batch.segments(length):
            for target in (segment.learned, segment.held_out):
                weighted = target.abs() * weighing.learned * segment.weight
                mean_target += weighted.nansum(dim=(0, 2))
                count += (~torch.isnan(weighted)).sum(dim=(0, 2))
        mean_target /= count.clamp(min=1)
        largest_targets[batch.series_ids[int(mean_target.argmax())]] = float(mean_target.max())
    worst = max(largest_targets, key=largest_targets.__getitem__)
    return DataError(
        f"training stopped in epoch {epoch}: its loss is not a finite number; series {worst!r} has the "
        "largest targets: check its values, or lower training.learning_rate"
    )
