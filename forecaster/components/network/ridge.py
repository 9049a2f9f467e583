"""Six of the network's seven linear experts, all but the logarithmic one: weighted sums of past values.

They are, in this order: two ridge regressions for each horizon, of changes from the last value on the
distances of lags from it; the last season; the seventh season before (a week of days); the running mean; and
the last value. The weights of the sums are fixed after the training. The network weighs the experts.

A missing lag counts as the running mean. A lag on another level counts as the last value (Hampel 1974, "The
influence curve and its role in robust estimation"): after a jump of many scales, the lags before the
jump are useless, and a linear forecast would be far off as long as its lags reach back before the jump.

Letters: T windows, n rows of them, r rows of a piece, S series, F regressors, K linear experts, N horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.components.base import Block
from forecaster.components.season import windows_ago

RIDGE_COUNT = 2
LINEAR_EXPERT_COUNT = RIDGE_COUNT + 4
OTHER_LEVEL = 20.0  # a lagged value farther than this many scales from the last value has less influence
# Distances are divided by 20 scales (`OTHER_LEVEL`). They are clipped to this number,
# because `limit_distances` may multiply them by 0, and infinity times 0 would be NaN.
_FAR = np.float32(1e30)
_LARGEST = 2000.0  # a linear expert's forecast is at most this many units from the last value
# A `RegressorPiece` has at most `_COLUMNS` columns (windows times series), so its arrays fit into the cache.
# `regressors` computes `_LAGS` lags at once (more with few columns), so its scratch array also fits into
# the cache.
_COLUMNS, _LAGS = 512, 42


class RegressorPiece(NamedTuple):
    """The regressors for a piece of a block: some of its windows, and some of its series.

    Attributes:
        at: the piece's windows, as a slice of the windows that were requested.
        rows: the ``r`` windows, as rows of the block: a slice of one, or ``[r]`` int64.
        some: the piece's series, as a slice of the block's.
        x: ``[F + 1, r, S]`` float32, see `regressors`; the last row is 0.
        size: ``[r, S]`` float64, see `regressors`.
    """

    at: slice
    rows: slice | NDArray[np.integer[Any]]
    some: slice
    x: Floats32
    size: Floats


def regressor_count(ring: int) -> int:
    """Return the number of regressors: the lags from ``ring - 1`` down to 1, then the running mean."""
    return max(ring - 1, 0) + 1


def regressors(block: Block, rows: slice | NDArray[np.integer[Any]], some: slice, out: Floats32) -> Floats:
    """Compute the regressors: the distances of the lagged values and of the running mean from the last value.

    The distances are divided by 20 scales, and `limit_distances` shrinks large distances.

    Args:
        block: with the fields of ring and moments.
        rows: the ``r`` rows of the block, see `RegressorPiece`.
        some: series of the block.
        out: ``[F, r, S]``, filled; from -1 to 1. A missing lag counts as the running mean.

    Returns:
        ``[r, S]`` float64, 20 scales: the factor that turns distances back into differences of values.
    """
    lags = len(out) - 1
    last, size = block.last[rows, some], OTHER_LEVEL * block.scale[rows, some]
    per_size, at_once = 1.0 / size, _LAGS * max(1, _COLUMNS // max(last.size, 1))
    scratch = np.empty((min(at_once, lags), *last.shape))
    distances(block.mean[rows, some], last, per_size, out[-1])
    for first in range(0, lags, at_once):
        part = out[first : min(first + at_once, lags)]
        distances(
            _past(block, rows, lags - first, len(part), some), last, per_size, part, scratch[: len(part)]
        )
    limit_distances(out, out[-1])
    return size


def _past(block: Block, rows: slice | NDArray[np.integer[Any]], ago: int, count: int, some: slice) -> Floats:
    """Return, for each row, the values of ``count`` windows; the first is ``ago`` windows before the row.

    The result is ``[count, r, S]``, with r rows.
    """
    before = len(block.history) - len(block.values) - ago
    if isinstance(rows, slice):
        return block.history[before + rows.start : before + rows.start + count, None, some]
    return block.history[before + rows + np.arange(count)[:, None], some]


def distances(
    values: Floats, last: Floats, per_size: Floats, out: Floats32, off: Floats | None = None
) -> None:
    """Compute the distances of values from the last value, divided by 20 scales.

    A missing value gives NaN. A distance beyond the range of float32 gives infinity.

    Args:
        values: ``[..., S]`` float64.
        last: float64, in a shape that broadcasts against that of the values.
        per_size: 1 divided by 20 scales, float64, in such a shape too.
        out: in the shape of the values, filled.
        off: in the shape of the values, for intermediate results; None allocates it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(np.subtract(values, last, out=off), per_size, out=out, casting="same_kind")


def limit_distances(x: Floats32, missing: Floats32 | float) -> None:
    """Replace missing distances by ``missing``, then shrink each distance with an absolute value above 1.

    A distance of 1 is 20 scales. An absolute value d up to 1 is unchanged; from 1 to 2 it becomes
    d * (2 - d); a larger one becomes 0. So no absolute value is above 1 afterwards. The signs stay.

    Args:
        x: the distances, changed in place.
        missing: the number that replaces NaN.
    """
    factor = np.abs(x)
    largest = factor.max(initial=0.0)
    if not largest <= _FAR:
        np.copyto(x, missing, where=np.isnan(x))
        np.clip(x, -_FAR, _FAR, out=x)
        np.abs(x, out=factor)
    if not largest <= 1.0:
        np.subtract(np.float32(2.0), factor, out=factor)
        np.clip(factor, np.float32(0.0), np.float32(1.0), out=factor)
        x *= factor


def pieces(block: Block, count: int, rows: NDArray[np.integer[Any]]) -> Iterator[RegressorPiece]:
    """Yield the regressors of all series at the windows ``rows`` of a block, in pieces that fit the cache.

    ``count`` is F, and ``rows`` ``[n]`` are the windows. The next piece overwrites the regressors.
    """
    series = block.values.shape[1]
    # A `RegressorPiece` has a column for each window and series, so with few series it holds more windows.
    together = max(1, _COLUMNS // max(series, 1))
    for first in range(0, series, _COLUMNS):
        some = slice(first, min(first + _COLUMNS, series))
        buffer = np.zeros((count + 1, min(together, len(rows)), some.stop - first), np.float32)
        for start in range(0, len(rows), together):
            at = slice(start, min(start + together, len(rows)))
            x = buffer[:, : at.stop - start]
            # Select a single row by a slice: it gives views of the block's arrays, an index array would copy.
            these = slice(int(rows[start]), int(rows[start]) + 1) if len(x[0]) == 1 else rows[at]
            yield RegressorPiece(at, these, some, x, regressors(block, these, some, x[:count]))


@dataclass(frozen=True)
class Experts:
    """Computes the forecasts of the six linear experts of this module from the regressors.

    Attributes:
        ridge: ``[2, F, N]`` float32, the weights of the two ridge regressions.
        season: windows of a season; 1 without a season.
    """

    ridge: Floats32
    season: int

    @cached_property
    def _weights(self) -> Floats32:
        """The weights of both ridge regressions, side by side: one row for each regressor."""
        return np.concatenate(list(self.ridge), axis=1)

    @cached_property
    def _repeated_regressors(self) -> list[Ints]:
        """For each expert that repeats a season: the row of ``x`` that holds its forecast at each horizon.

        The first expert repeats the last season, the second one the seventh season before.
        """
        _, count, horizon = self.ridge.shape
        ago = (windows_ago(period, horizon) for period in (self.season, 7 * self.season))
        # A lag of 0 is the last value itself. For such a lag, and for a lag without a regressor, the expert
        # forecasts a change of 0 from the last value.
        # So such a lag gets the index ``count``: row ``count`` of ``x`` is 0 for every window and series.
        return [np.where((lags > 0) & (lags < count), count - 1 - lags, count) for lags in ago]

    def forecast(self, piece: RegressorPiece, block: Block, forecasts: Floats32) -> None:
        """Write the six linear experts' forecasts for the series and windows of ``piece`` into ``forecasts``.

        ``forecasts`` is ``[K, n, S, N]``, with one entry for each expert; the first six entries are filled.
        The forecasts are changes from the last value in units.
        """
        x, horizon = piece.x, self.ridge.shape[2]
        to_units = (piece.size / block.unit[piece.rows, piece.some]).astype(np.float32)[:, :, None]
        out = forecasts[:LINEAR_EXPERT_COUNT, piece.at, piece.some]
        both = (columns(x[:-1]).T @ self._weights).reshape(*to_units.shape[:2], -1)
        for k in range(RIDGE_COUNT):
            np.multiply(both[..., k * horizon : (k + 1) * horizon], to_units, out=out[k])
        for k, places in enumerate(self._repeated_regressors, RIDGE_COUNT):
            np.multiply(x[places].transpose(1, 2, 0), to_units, out=out[k])
        out[LINEAR_EXPERT_COUNT - 2] = x[-2, :, :, None] * to_units
        out[LINEAR_EXPERT_COUNT - 1] = 0.0
        np.clip(out, -_LARGEST, _LARGEST, out=out)


def columns(x: Floats32) -> Floats32:
    """Merge the axes window and series, the last two of the regressors ``x``, into one axis.

    The result is a view of ``x`` if possible.
    """
    return x.reshape(len(x), -1)


def expert_forecasts(
    block: Block, ridge: Floats32, season: int, rows: NDArray[np.integer[Any]] | None = None
) -> Floats32:
    """Return the forecasts of six linear experts, all but the logarithmic one.

    Each number is a change from the last value, in units.

    Args:
        block: with the fields of ring and moments.
        ridge: ``[2, F, N]`` float32.
        season: windows of a season; 1 without a season.
        rows: ``[n]`` of the block; all by default.

    Returns:
        ``[K, n, S, N]`` float32.
    """
    rows = np.arange(len(block.values)) if rows is None else rows
    experts = Experts(ridge, season)
    forecasts = np.empty((LINEAR_EXPERT_COUNT, len(rows), block.values.shape[1], ridge.shape[2]), np.float32)
    for piece in pieces(block, ridge.shape[1], rows):
        experts.forecast(piece, block, forecasts)
    return forecasts
