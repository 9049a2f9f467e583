"""The linear part in logarithms, for series that have never been at or below 0.

Sales, traffic and loads grow and fall by shares: what is a tenth off at night is a tenth off at noon. One
more ridge regression, beside those of `forecaster.components.linear`, is of logarithmic changes from the last
value on how far the logarithms of the lags lie from its own. It has no unit: where changes are small against
the level it is a regression of relative changes. Of a series that has reached 0 it says nothing.

Letters: T windows, n rows of them, S series, F regressors, K experts, N horizon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.components.base import Block, Floats32
from forecaster.components.linear import EXPERTS, RIDGES, expert_forecasts, near

ALL_RIDGES = RIDGES + 1
ALL_EXPERTS = EXPERTS + 1  # K; this one is the last
_LEAST_RATIO, _LARGEST_RATIO = 1e-6, 1e30  # to the last value
_ROOM = 0.7  # beyond the largest and the smallest value seen, in logarithms
_LARGEST = 2000.0  # units that a forecast can lie from the last value
_SERIES = 128  # at once, so that what is made on the way stays in the cache


def log_regressors(block: Block, row: int, some: slice, out: Floats32) -> None:
    """How far the logarithms of lags and mean lie from that of the last value, of series above 0.

    Args:
        block: with what ring and moments say of it.
        row: of the block.
        some: series of the block; of those that are not above 0 what comes out means nothing.
        out: ``[F, S]``, is filled; a lag that is missing counts as the running mean, one from another level
            as the last value.
    """
    now = len(block.history) - len(block.values) + row
    last = block.last[row, some]
    middle = block.mean[row, some] - last
    off = np.empty(out.shape)
    off[-1] = middle
    np.subtract(block.history[now - len(out) + 1 : now, some], last, out=off[:-1])
    if np.isnan(off.sum()):
        np.copyto(off, middle, where=np.isnan(off))
    with np.errstate(all="ignore"):
        np.divide(near(off, block.scale[row, some]), last, out=out, casting="same_kind")
    np.clip(out, _LEAST_RATIO - 1.0, _LARGEST_RATIO, out=out)
    np.log1p(out, out=out)


def all_forecasts(
    block: Block, ridge: Floats32, season: int, rows: NDArray[np.integer[Any]] | None = None
) -> Floats32:
    """``[K, n, S, N]`` float32, see `expert_forecasts`, with that in logarithms as the last.

    Of a series that is not above 0 that is the more shrunk of the other regressions again.

    Args:
        block: with what ring and moments say of it.
        ridge: ``[3, F, N]`` float32, the last in logarithms.
        season: windows of a season; 1 where there is none.
        rows: ``[n]`` of the block; all by default.
    """
    rows = np.arange(len(block.values)) if rows is None else rows
    others = expert_forecasts(block, ridge[:RIDGES], season, rows)
    said = np.concatenate([others, others[RIDGES - 1 : RIDGES]])
    for first in range(0, others.shape[2], _SERIES):
        some = slice(first, min(first + _SERIES, others.shape[2]))
        x = np.empty((ridge.shape[1], some.stop - first), np.float32)
        for i, row in enumerate(rows):
            above = block.lowest[row, some] > 0
            if above.any():
                log_regressors(block, int(row), some, x)
                said[EXPERTS, i, some][above] = _in_units(block, int(row), some, x.T @ ridge[RIDGES])[above]
    return said


def _in_units(block: Block, row: int, some: slice, change: Floats32) -> Floats32:
    """``[S, N]`` logarithmic changes, none far from what was seen, as changes in units."""
    last = block.last[row, some, None]
    with np.errstate(all="ignore"):
        low = np.log(block.lowest[row, some, None] / last) - _ROOM
        high = np.log(block.highest[row, some, None] / last) + _ROOM
        said = np.expm1(np.clip(change, low, high)) * (last / block.unit[row, some, None])
        return np.clip(said, -_LARGEST, _LARGEST).astype(np.float32)
