"""How far off forecasts are while a network learns, and what an error weighs at each horizon.

Letters: N horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.training.batches import Fleet
from schemas.errors import DataError

EVERY = 4  # windows to one that is learned from: neighbours have nearly the same targets


def pinball_loss(quantiles: Tensor, target: Tensor, levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean pinball loss over what was observed (Koenker & Bassett 1978).

    Args:
        quantiles: ``[Q, ...]`` forecasts.
        target: ``[...]`` what came; NaN where nothing did.
        levels: ``[Q]`` quantile levels.
        weight: of each error, in a shape that broadcasts against ``target``; 1 by default.

    Returns:
        A scalar; 0 where nothing was observed.
    """
    known = ~torch.isnan(target)
    error = torch.where(known, target, 0.0) - quantiles
    level = levels.view(-1, *[1] * target.dim())
    loss = torch.maximum(level * error, (level - 1) * error)
    loss = loss * known if weight is None else loss * known * weight
    return loss.sum() / (known.sum().clamp(min=1) * len(levels))


@dataclass(frozen=True)
class Weighing:
    """What a unit of error weighs at each horizon, ``[N]``.

    Attributes:
        learned: in training: the less the linear part is off, the more. Without it the far horizons, where
            it is some times worse, take all of the gradient.
        skill: in the held-out windows: one over persistence's pinball loss there, in units of each series'
            mean change, and over the number of horizons: the weighted errors sum to one minus the skill.
    """

    learned: Tensor
    skill: Tensor


def weighing_of(fleet: Fleet, length: int) -> Weighing:
    """Weights of the horizons, by how far series move in that many windows.

    Args:
        fleet: what is learned from.
        length: windows in a segment.

    Raises:
        DataError: there is nothing to learn from.
    """
    horizon = fleet.network.horizon
    moved, known, persistence = (torch.zeros(horizon, dtype=torch.float64) for _ in range(3))
    for number in range(len(fleet.batches)):
        for segment in fleet.batch(number).segments(length, EVERY):
            first = segment.learned if segment.experts is None else segment.learned - segment.experts[0]
            moved += (first.abs() * segment.weight).nansum(dim=(0, 1))
            known += (~torch.isnan(segment.learned)).sum(dim=(0, 1))
            # The pinball loss of a forecast without width, over levels that lie evenly around the median.
            persistence += 0.5 * (segment.held_out.abs() * segment.unit).nansum(dim=(0, 1))
    if not known.any():
        raise DataError(
            "no series has a second value before the held-out windows: nothing to train on "
            "(give more windows, or a smaller training.validation or training.backtest)"
        )
    weight = 1.0 / (moved / known).clamp(min=1e-3)
    # A horizon beyond every series has nothing to weigh; it must not make the weights of the others NaN.
    learned = torch.nan_to_num(weight / weight.nanmean(), nan=1.0)
    judged = persistence > 0
    skill = torch.where(judged, 1.0 / torch.where(judged, persistence, 1.0), 0.0) / judged.sum().clamp(min=1)
    return Weighing(learned.float(), skill.float())


def ran_away(
    fleet: Fleet, batches: range | list[int], length: int, weighing: Weighing, epoch: int
) -> DataError:
    """What to say when the loss is no number any more: the series that pulls hardest at the weights.

    Args:
        fleet: what is learned from.
        batches: of it, in which that series is.
        length: windows in a segment.
        weighing: of the errors.
        epoch: in which training stopped.
    """
    pulls: dict[str, float] = {}
    for number in batches:
        batch = fleet.batch(number)
        pull, known = torch.zeros(len(batch.series_ids)), torch.zeros(len(batch.series_ids))
        for segment in batch.segments(length):
            for target in (segment.learned, segment.held_out):
                pulled = target.abs() * weighing.learned * segment.weight
                pull += pulled.nansum(dim=(0, 2))
                known += (~torch.isnan(pulled)).sum(dim=(0, 2))
        pull /= known.clamp(min=1)
        pulls[batch.series_ids[int(pull.argmax())]] = float(pull.max())
    worst = max(pulls, key=pulls.__getitem__)
    return DataError(
        f"training stopped in epoch {epoch}: its loss is no number any more; series {worst!r} pulls hardest: "
        "look at its values, or lower training.learning_rate"
    )
