"""The linear part in logarithms, for series that have never been at or below 0.

Sales, traffic and loads grow and fall by shares: what is a tenth off at night is a tenth off at noon. One
more ridge regression, beside those of `forecaster.components.network.ridge`, is of logarithmic changes from
the last
value on how far the logarithms of the lags lie from its own. It has no unit: where changes are small against
the level it is a regression of relative changes. Of a series that has reached 0 it says nothing.

Letters: T windows, n rows of them, S series, F regressors, K experts, N horizon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Floats32
from forecaster.components.base import Block
from forecaster.components.network.ridge import EXPERTS, RIDGES, Experts, Piece, columns, pieces

ALL_RIDGES = RIDGES + 1
ALL_EXPERTS = EXPERTS + 1  # K; this one is the last
_LEAST_RATIO, _LARGEST_RATIO = 1e-6, 1e30  # to the last value
_ROOM = 0.7  # beyond the largest and the smallest value seen, in logarithms
_LARGEST = np.float32(2000.0)  # units that a forecast can lie from the last value


def log_regressors(piece: Piece, block: Block, out: Floats32) -> None:
    """How far the logarithms of lags and mean lie from that of the last value, of series above 0.

    Args:
        piece: the distances themselves.
        block: where they are from.
        out: ``[F, r, S]``, is filled; the numbers of series that are not above 0 mean nothing. A lag that is
            missing counts as the running mean, one from another level as the last value.
    """
    with np.errstate(all="ignore"):
        ratio = np.minimum(piece.size / block.last[piece.rows, piece.some], _LARGEST_RATIO)
        np.multiply(piece.x[:-1], ratio.astype(np.float32), out=out)
        np.clip(out, np.float32(_LEAST_RATIO - 1.0), np.float32(_LARGEST_RATIO), out=out)
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
    experts = Experts(ridge[:RIDGES], season)
    said = np.empty((ALL_EXPERTS, len(rows), block.values.shape[1], ridge.shape[2]), np.float32)
    for piece in pieces(block, ridge.shape[1], rows):
        experts.say(piece, block, said)
        _say(piece, block, ridge[RIDGES], said[:, piece.at, piece.some])
    return said


def _say(piece: Piece, block: Block, ridge: Floats32, said: Floats32) -> None:
    """Writes the last of ``said`` ``[K, r, S, N]``."""
    above = block.lowest[piece.rows, piece.some] > 0
    if not above.all():
        said[EXPERTS] = said[RIDGES - 1]
    if above.any():
        x = np.empty_like(piece.x[:-1])
        log_regressors(piece, block, x)
        changes = (columns(x).T @ ridge).reshape(*above.shape, -1)
        np.copyto(said[EXPERTS], _in_units(block, piece, changes), where=above[..., None])


def _in_units(block: Block, piece: Piece, change: Floats32) -> Floats32:
    """Turn logarithmic changes ``[r, S, N]`` into changes in units, within reach of the values so far."""
    last, lowest, highest, unit = (
        array[piece.rows, piece.some] for array in (block.last, block.lowest, block.highest, block.unit)
    )
    with np.errstate(all="ignore"):
        low, high = np.log(lowest / last) - _ROOM, np.log(highest / last) + _ROOM
        np.clip(change, *(bound.astype(np.float32)[..., None] for bound in (low, high)), out=change)
        np.expm1(change, out=change)
        # Of a spike the ratio can be beyond float32, and infinity times a change of 0 is no number.
        change *= np.minimum(last / unit, _LARGEST_RATIO).astype(np.float32)[..., None]
        return np.clip(change, -_LARGEST, _LARGEST, out=change)
