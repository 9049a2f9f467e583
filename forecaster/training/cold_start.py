"""Train what a forecast of a series without values needs: its level and scale, from static features."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from forecaster.arrays import Floats
from forecaster.components.network.network import Network
from forecaster.training.batches import Fleet
from forecaster.training.losses import pinball_loss
from forecaster.training.segments import Segment

_SHRINKAGE = 1.0  # series' worth of evidence that a feature says nothing
_EVERY = 4  # rows to one at which a series is learned from as if it began there


def fit_of_static(fleet: Fleet) -> Floats:
    """``[1 + D, 2]`` float64, a ridge regression of each series' mean and log scale on its static features.

    The scale is the standard deviation of a series' values. What is held out is not looked at.
    """
    values = fleet.windows.values[: fleet.held_from]
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    x = np.column_stack([np.ones(len(mean)), fleet.covariates.static(fleet.windows.series_ids)])
    fitted = np.zeros((x.shape[1], 2))
    has_mean, moves = known.any(axis=0), scale > 0
    if has_mean.any():
        fitted[:, 0] = _ridge(x[has_mean], mean[has_mean])
    if moves.any():  # a constant series says nothing of how far others go
        fitted[:, 1] = _ridge(x[moves], np.log(scale[moves]))
    return fitted


def cold_loss(module: Network, segment: Segment, static: Tensor, levels: Tensor) -> Tensor:
    """Mean pinball loss of series as if they began after some of the segment's rows, in their scales."""
    assert segment.known is not None
    assert segment.ahead is not None
    level, scale = module.level_and_scale(static)
    target = (segment.ahead[::_EVERY] - level[:, None]) / scale[:, None]
    return pinball_loss(module.cold(static, segment.known[::_EVERY]), target.float().clamp(-20, 20), levels)


def _ridge(x: Floats, y: Floats) -> Floats:
    """``[1 + D]``, not shrinking the first: of features that say nothing the mean is left."""
    centre = y.mean()
    shrinkage = _SHRINKAGE * np.diag([1e-9, *np.ones(x.shape[1] - 1)])
    found: Floats = np.linalg.solve(x.T @ x + shrinkage, x.T @ (y - centre))
    found[0] += centre
    return found
