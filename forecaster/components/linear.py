"""The linear part of the network: forecasts that are sums of lags, fixed once they are fitted.

Six experts, in this order: two ridge regressions, one for each horizon, of changes from the last value on
how far lags lie from it; the last season; the seventh season before (a week of days); the running mean; and
the last value. The network weighs them.

A lag that is missing counts as the running mean. One from another level counts as nothing (Hampel 1974, "The
influence curve and its role in robust estimation"): after a jump of many scales the lags before it are of no
use, and a linear forecast would be far off for as long as it looks back.

Letters: T windows, n rows of them, S series, R ring, F regressors, K experts, N horizon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.components.base import Block, Floats, Floats32

RIDGES = 2
EXPERTS = RIDGES + 4  # K
_OTHER_LEVEL = 20.0  # scales
_LARGEST = 2000.0  # units that a forecast can lie from the last value
_LARGEST_LAG = 1e6  # units
_SERIES = 128  # at once, so that what is made on the way stays in the cache


def regressor_count(ring: int) -> int:
    """F: the lags from the oldest, ``R - 1``, to 1, then the mean."""
    return max(ring - 1, 0) + 1


def near(off: Floats, scale: Floats) -> Floats:
    """Distances from the last value: whole up to 20 scales, nothing from twice that on."""
    size = np.abs(off) / (scale * _OTHER_LEVEL)
    return np.where(size < 2.0, off * np.minimum(2.0 - size, 1.0), 0.0)


def regressors(block: Block, row: int, some: slice, out: Floats32) -> None:
    """How far lags and mean lie from the last value, in units.

    Args:
        block: with what ring and moments say of it.
        row: of the block.
        some: series of the block.
        out: ``[F, S]``, is filled.
    """
    now = len(block.history) - len(block.values) + row
    last = block.last[row, some]
    middle = block.mean[row, some] - last
    per_unit = 1.0 / block.unit[row, some]
    off = np.empty(out.shape)
    off[-1] = middle
    np.subtract(block.history[now - len(out) + 1 : now, some], last, out=off[:-1])
    if np.isnan(off.sum()):  # half the price of looking at each
        np.copyto(off, middle, where=np.isnan(off))
    with np.errstate(over="ignore"):
        np.multiply(off, per_unit, out=out, casting="same_kind")
    np.clip(out, -_LARGEST_LAG, _LARGEST_LAG, out=out)
    to_level = block.unit[row, some] / (_OTHER_LEVEL * block.scale[row, some])
    size = np.abs(out)
    size *= np.minimum(to_level, _LARGEST_LAG).astype(np.float32)
    np.subtract(np.float32(2.0), size, out=size)
    np.clip(size, 0.0, 1.0, out=size)
    out *= size


def expert_forecasts(
    block: Block, ridge: Floats32, season: int, rows: NDArray[np.integer[Any]] | None = None
) -> Floats32:
    """``[K, n, S, N]`` float32, what each expert forecasts as a change from the last value, in units.

    Args:
        block: with what ring and moments say of it.
        ridge: ``[2, F, N]`` float32.
        season: windows of a season; 1 where there is none.
        rows: ``[n]`` of the block; all by default.
    """
    _, count, horizon = ridge.shape
    rows = np.arange(len(block.values)) if rows is None else rows
    series = block.values.shape[1]
    said = np.zeros((EXPERTS, len(rows), series, horizon), np.float32)
    weights = np.concatenate(list(ridge), axis=1)  # [F, 2 N]
    ahead = np.arange(1, horizon + 1)
    ago = (period * -(-ahead // period) - ahead for period in (season, 7 * season))
    # A lag of 0 is the last value, and so is one that the ring is too short for: the row of zeros.
    naive = [np.where((lags > 0) & (lags < count), count - 1 - lags, count) for lags in ago]
    for first in range(0, series, _SERIES):
        some = slice(first, min(first + _SERIES, series))
        padded = np.zeros((count + 1, some.stop - first), np.float32)
        x = padded[:count]
        for i, row in enumerate(rows):
            regressors(block, int(row), some, x)
            both = x.T @ weights
            for k in range(RIDGES):
                said[k, i, some] = both[:, k * horizon : (k + 1) * horizon]
            for k, places in enumerate(naive, RIDGES):
                said[k, i, some] = padded[places].T
            said[EXPERTS - 2, i, some] = x[-1, :, None]
    np.clip(said, -_LARGEST, _LARGEST, out=said)
    return said
