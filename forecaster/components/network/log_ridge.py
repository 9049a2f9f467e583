"""The logarithmic linear expert, which is used for series with only values above 0.

Sales, traffic and loads grow and fall by shares: a tenth less at night is a tenth less at noon. This ridge
regression is a third one, beside the two of `forecaster.components.network.ridge`. Its target is the
logarithmic change from the last value, and its regressors are the distances of the lags' logarithms from
that of the last value. It has no unit: if changes are small against the level, it is a regression of
relative changes. It is not used for a series that has reached 0.

Letters: T windows, n rows of them, r rows of a piece, S series, F regressors, K linear experts, N horizon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Floats32
from forecaster.components.base import Block
from forecaster.components.network.ridge import (
    LINEAR_EXPERT_COUNT,
    RIDGE_COUNT,
    Experts,
    RegressorPiece,
    columns,
    pieces,
)

ALL_RIDGE_COUNT = RIDGE_COUNT + 1
ALL_EXPERT_COUNT = LINEAR_EXPERT_COUNT + 1  # the logarithmic linear expert is the last one
_LEAST_RATIO, _LARGEST_RATIO = 1e-6, 1e30  # the ratio of a value to the last value is clipped to these limits
_ROOM = 0.7  # the log of a forecast is at most this far outside the range of the logs of past values
# A forecast of the logarithmic linear expert is at most this many units from the last value.
_LARGEST = np.float32(2000.0)


def log_regressors(piece: RegressorPiece, block: Block, out: Floats32) -> None:
    """Compute the logarithm of the ratio of each lagged value, and of the running mean, to the last value.

    Args:
        piece: with the distances of the values themselves.
        block: the block that the piece is part of.
        out: ``[F, r, S]``, filled; meaningless for series with a value of 0 or less. A missing lag counts as
            the running mean, a lag on another level as the last value.
    """
    with np.errstate(all="ignore"):
        ratio = np.minimum(piece.size / block.last[piece.rows, piece.some], _LARGEST_RATIO)
        np.multiply(piece.x[:-1], ratio.astype(np.float32), out=out)
        np.clip(out, np.float32(_LEAST_RATIO - 1.0), np.float32(_LARGEST_RATIO), out=out)
        np.log1p(out, out=out)


def linear_forecasts(
    block: Block, ridge: Floats32, season: int, rows: NDArray[np.integer[Any]] | None = None
) -> Floats32:
    """Return the forecasts that all seven linear experts issue at ``rows``; the logarithmic one is the last.

    For a series with a value of 0 or less, the last expert repeats the ridge regression that is more shrunk.
    See `expert_forecasts` for the others.

    Args:
        block: with the fields of ring and moments.
        ridge: ``[3, F, N]`` float32, the regression of the logarithmic expert last.
        season: windows of a season; 1 without a season.
        rows: ``[n]`` of the block; all by default.

    Returns:
        ``[K, n, S, N]`` float32, changes from the last value in units.
    """
    rows = np.arange(len(block.values)) if rows is None else rows
    experts = Experts(ridge[:RIDGE_COUNT], season)
    forecasts = np.empty((ALL_EXPERT_COUNT, len(rows), block.values.shape[1], ridge.shape[2]), np.float32)
    for piece in pieces(block, ridge.shape[1], rows):
        experts.forecast(piece, block, forecasts)
        _write_log_forecasts(piece, block, ridge[RIDGE_COUNT], forecasts[:, piece.at, piece.some])
    return forecasts


def _write_log_forecasts(piece: RegressorPiece, block: Block, ridge: Floats32, forecasts: Floats32) -> None:
    """Write the forecasts of the logarithmic linear expert into the last row of ``forecasts``.

    The forecasts are changes in units, ``[K, r, S, N]``, see `linear_forecasts`.
    """
    positive = block.lowest[piece.rows, piece.some] > 0
    if not positive.all():
        forecasts[LINEAR_EXPERT_COUNT] = forecasts[RIDGE_COUNT - 1]
    if positive.any():
        x = np.empty_like(piece.x[:-1])
        log_regressors(piece, block, x)
        changes = (columns(x).T @ ridge).reshape(*positive.shape, -1)
        np.copyto(forecasts[LINEAR_EXPERT_COUNT], _in_units(block, piece, changes), where=positive[..., None])


def _in_units(block: Block, piece: RegressorPiece, change: Floats32) -> Floats32:
    """Clip forecast changes of the logarithm, and convert them to changes of the value, in units.

    The logarithm of each forecast is clipped to the range of the logarithms of past values, widened by
    `_ROOM` on both sides. The changes are ``[r, S, N]``.
    """
    last, lowest, highest, unit = (
        array[piece.rows, piece.some] for array in (block.last, block.lowest, block.highest, block.unit)
    )
    with np.errstate(all="ignore"):
        low, high = np.log(lowest / last) - _ROOM, np.log(highest / last) + _ROOM
        np.clip(change, *(bound.astype(np.float32)[..., None] for bound in (low, high)), out=change)
        np.expm1(change, out=change)
        # Limit last value / unit: if this ratio overflowed float32, infinity times a 0 change would be NaN.
        change *= np.minimum(last / unit, _LARGEST_RATIO).astype(np.float32)[..., None]
        return np.clip(change, -_LARGEST, _LARGEST, out=change)
