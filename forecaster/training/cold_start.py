"""Fit mean and standard deviation of series to static features, and compute the cold-start loss.

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
# Of the windows at which the network forecasts, the cold-start loss uses every fourth.
# The forecasts in this loss use static and known features only, no value of the series.
_EVERY = 4


def fit_static_ridge(fleet: Fleet) -> Floats:
    """Fit ridge regressions of a series' mean, and of its log standard deviation, on its static features.

    Held-out windows are not used. The standard deviation is called scale below.

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
    if moves.any():  # leave out constant series: their scale is 0, which has no logarithm
        fitted[:, 1] = _ridge(x[moves], np.log(scale[moves]))
    return fitted


def cold_loss(module: Network, segment: Segment, static: Tensor, levels: Tensor) -> Tensor:
    """Return the mean pinball loss of forecasts that the network makes from static and known features only.

    Errors are divided by the predicted standard deviation of each series.
    """
    assert segment.known is not None
    assert segment.ahead is not None
    level, scale = module.level_and_scale(static)
    target = (segment.ahead[::_EVERY] - level[:, None]) / scale[:, None]
    return pinball_loss(module.cold(static, segment.known[::_EVERY]), target.float().clamp(-20, 20), levels)


def _ridge(x: Floats, y: Floats) -> Floats:
    """Return the coefficients of a ridge regression of ``y`` on the constant and the static features.

    The constant is not shrunk. If no feature has an effect, the prediction is the mean.
    """
    mean = y.mean()
    shrinkage = _SHRINKAGE * np.diag([1e-9, *np.ones(x.shape[1] - 1)])
    coefficients: Floats = np.linalg.solve(x.T @ x + shrinkage, x.T @ (y - mean))
    coefficients[0] += mean
    return coefficients
