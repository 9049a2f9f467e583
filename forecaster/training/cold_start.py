"""Train forecasts for series without values: predict level and scale of a series from static features.

Letters: D static features.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from forecaster.arrays import Floats
from forecaster.components.network.network import Network
from forecaster.training.batches import Fleet
from forecaster.training.losses import pinball_loss
from forecaster.training.segments import Segment

_SHRINKAGE = 1.0  # ridge penalty of each coefficient except the constant
# The cold-start loss is computed from every fourth forecast row of a segment, as if series began there.
_EVERY = 4


def fit_static_ridge(fleet: Fleet) -> Floats:
    """Fit ridge regressions of a series' mean, and of the logarithm of its scale, on its static features.

    The scale is the standard deviation of a series' values. Held-out windows are not used.

    Returns:
        ``[1 + D, 2]`` float64, coefficients of the constant and of the D features, for the mean and the log
        scale.
    """
    values = fleet.windows.values[: fleet.held_from]
    has_value = ~np.isnan(values)
    count = np.maximum(has_value.sum(axis=0), 1)
    mean = np.where(has_value, values, 0.0).sum(axis=0) / count
    scale = np.sqrt(np.where(has_value, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    x = np.column_stack([np.ones(len(mean)), fleet.covariates.static(fleet.windows.series_ids)])
    fitted = np.zeros((x.shape[1], 2))
    has_mean, moves = has_value.any(axis=0), scale > 0
    if has_mean.any():
        fitted[:, 0] = _ridge(x[has_mean], mean[has_mean])
    if moves.any():  # a constant series has scale 0, which has no logarithm
        fitted[:, 1] = _ridge(x[moves], np.log(scale[moves]))
    return fitted


def cold_loss(module: Network, segment: Segment, static: Tensor, levels: Tensor) -> Tensor:
    """Return the mean pinball loss, in predicted scales, of forecasts from static and known features only."""
    assert segment.known is not None
    assert segment.ahead is not None
    level, scale = module.level_and_scale(static)
    target = (segment.ahead[::_EVERY] - level[:, None]) / scale[:, None]
    return pinball_loss(module.cold(static, segment.known[::_EVERY]), target.float().clamp(-20, 20), levels)


def _ridge(x: Floats, y: Floats) -> Floats:
    """Return ridge coefficients that predict ``y`` from ``x``: of the constant, then of each static feature.

    The constant is not shrunk. If no feature has an effect, the prediction is the mean.
    """
    mean = y.mean()
    shrinkage = _SHRINKAGE * np.diag([1e-9, *np.ones(x.shape[1] - 1)])
    coefficients: Floats = np.linalg.solve(x.T @ x + shrinkage, x.T @ (y - mean))
    coefficients[0] += mean
    return coefficients
