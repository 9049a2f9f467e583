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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.components.base import Block
from forecaster.components.season import windows_ago

RIDGES = 2
EXPERTS = RIDGES + 4  # K
OTHER_LEVEL = 20.0  # scales
_FAR = np.float32(1e30)  # times that; its square need not be a number
_LARGEST = 2000.0  # units that a forecast can lie from the last value
# Windows times series, and lags, in one piece: what is computed on the way stays in the cache.
_COLUMNS, _LAGS = 512, 42


class Piece(NamedTuple):
    """Regressors of some series at some windows of a block.

    Attributes:
        at: which of the windows asked for they are.
        rows: the ``r`` windows, as rows of the block: a slice of one, or ``[r]`` int64.
        some: series of the block.
        x: ``[F + 1, r, S]`` float32, see `regressors`; the last row is 0.
        size: ``[r, S]`` float64, see there.
    """

    at: slice
    rows: slice | NDArray[np.integer[Any]]
    some: slice
    x: Floats32
    size: Floats


def regressor_count(ring: int) -> int:
    """F: the lags from the oldest, ``R - 1``, to 1, then the mean."""
    return max(ring - 1, 0) + 1


def regressors(block: Block, rows: slice | NDArray[np.integer[Any]], some: slice, out: Floats32) -> Floats:
    """How far lags and mean lie from the last value, in 20 scales: `near_in_place`, hence from -1 to 1.

    Args:
        block: with what ring and moments say of it.
        rows: the ``r`` rows of the block, see `Piece`.
        some: series of the block.
        out: ``[F, r, S]``, is filled.

    Returns:
        ``[r, S]`` float64, by what to multiply to have them in the unit of the values.
    """
    lags = len(out) - 1
    last, size = block.last[rows, some], OTHER_LEVEL * block.scale[rows, some]
    per_size, off = 1.0 / size, np.empty((min(_LAGS, lags), *last.shape))
    distances(block.mean[rows, some], last, per_size, out[-1])
    for first in range(0, lags, _LAGS):
        part = out[first : min(first + _LAGS, lags)]
        distances(_past(block, rows, lags - first, len(part), some), last, per_size, part, off[: len(part)])
    near_in_place(out, out[-1])
    return size


def _past(block: Block, rows: slice | NDArray[np.integer[Any]], ago: int, count: int, some: slice) -> Floats:
    """``[count, r, S]``, values of ``count`` windows, the first of them ``ago`` windows before each row."""
    before = len(block.history) - len(block.values) - ago
    if isinstance(rows, slice):
        return block.history[before + rows.start : before + rows.start + count, None, some]
    return block.history[before + rows + np.arange(count)[:, None], some]


def distances(
    values: Floats, last: Floats, per_size: Floats, out: Floats32, off: Floats | None = None
) -> None:
    """How far values lie from the last one, in 20 scales; infinitely where that is beyond float32.

    Args:
        values: ``[..., S]`` float64.
        last: float64, in a shape that broadcasts against the values'.
        per_size: likewise, 1 through 20 scales.
        out: of the values' shape, is filled.
        off: of the values' shape, is used for what comes between; None takes new memory.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(np.subtract(values, last, out=off), per_size, out=out, casting="same_kind")


def near_in_place(x: Floats32, missing: Floats32 | float) -> None:
    """`distances` from the last value: whole up to 1, nothing from 2 on, so -1 to 1 in the end.

    Args:
        x: the distances, are changed.
        missing: what stands for NaN.
    """
    kept = np.abs(x)
    largest = kept.max(initial=0.0)
    if not largest <= _FAR:
        np.copyto(x, missing, where=np.isnan(x))
        np.clip(x, -_FAR, _FAR, out=x)
        np.abs(x, out=kept)
    if not largest <= 1.0:
        np.subtract(np.float32(2.0), kept, out=kept)
        np.clip(kept, np.float32(0.0), np.float32(1.0), out=kept)
        x *= kept


def pieces(block: Block, count: int, rows: NDArray[np.integer[Any]]) -> Iterator[Piece]:
    """The ``F = count`` regressors of all series at ``rows`` ``[n]`` of a block, some of them at a time.

    The regressors of a piece are overwritten by those of the next.
    """
    series = block.values.shape[1]
    together = max(1, _COLUMNS // max(series, 1))  # few series: several windows make a piece worth a call
    for first in range(0, series, _COLUMNS):
        some = slice(first, min(first + _COLUMNS, series))
        whole = np.zeros((count + 1, min(together, len(rows)), some.stop - first), np.float32)
        for start in range(0, len(rows), together):
            at = slice(start, min(start + together, len(rows)))
            x = whole[:, : at.stop - start]
            # A slice takes views of the block, where an array of rows would copy them.
            these = slice(int(rows[start]), int(rows[start]) + 1) if len(x[0]) == 1 else rows[at]
            yield Piece(at, these, some, x, regressors(block, these, some, x[:count]))


@dataclass(frozen=True)
class Experts:
    """What the linear experts say of regressors.

    Attributes:
        ridge: ``[2, F, N]`` float32.
        season: windows of a season; 1 where there is none.
    """

    ridge: Floats32
    season: int

    @cached_property
    def _weights(self) -> Floats32:
        """``[F, 2 N]``."""
        return np.concatenate(list(self.ridge), axis=1)

    @cached_property
    def _places(self) -> list[Ints]:
        """``[N]`` for each of two seasons, in which row of the regressors the last value of a phase lies."""
        _, count, horizon = self.ridge.shape
        ago = (windows_ago(period, horizon) for period in (self.season, 7 * self.season))
        # A lag of 0 is the last value, and so is one that the ring is too short for: the row of zeros.
        return [np.where((lags > 0) & (lags < count), count - 1 - lags, count) for lags in ago]

    def say(self, piece: Piece, block: Block, said: Floats32) -> None:
        """Writes into ``said`` ``[K, n, S, N]`` the changes from the last value, in units."""
        x, horizon = piece.x, self.ridge.shape[2]
        to_units = (piece.size / block.unit[piece.rows, piece.some]).astype(np.float32)[:, :, None]
        out = said[:EXPERTS, piece.at, piece.some]
        both = (columns(x[:-1]).T @ self._weights).reshape(*to_units.shape[:2], -1)
        for k in range(RIDGES):
            np.multiply(both[..., k * horizon : (k + 1) * horizon], to_units, out=out[k])
        for k, places in enumerate(self._places, RIDGES):
            np.multiply(np.moveaxis(x[places], 0, 2), to_units, out=out[k])
        out[EXPERTS - 2] = x[-2, :, :, None] * to_units
        out[EXPERTS - 1] = 0.0
        np.clip(out, -_LARGEST, _LARGEST, out=out)


def columns(x: Floats32) -> Floats32:
    """``[F, r, S]`` -> ``[F, r * S]``, in the same memory where that lies in one piece."""
    return x.reshape(len(x), -1)


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
    rows = np.arange(len(block.values)) if rows is None else rows
    experts = Experts(ridge, season)
    said = np.empty((EXPERTS, len(rows), block.values.shape[1], ridge.shape[2]), np.float32)
    for piece in pieces(block, ridge.shape[1], rows):
        experts.say(piece, block, said)
    return said
