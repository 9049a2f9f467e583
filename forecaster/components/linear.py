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

from forecaster.components.base import Block, Floats, Floats32, Ints
from forecaster.components.season import windows_ago

RIDGES = 2
EXPERTS = RIDGES + 4  # K
OTHER_LEVEL = 20.0  # scales
_FAR = np.float32(1e30)  # times that; its square need not be a number
_LARGEST = 2000.0  # units that a forecast can lie from the last value
_SERIES, _LAGS = 512, 42  # at once, so that what is made on the way stays in the cache


class Rows(NamedTuple):
    """Regressors of some series at one window of a block.

    Attributes:
        i: which of the rows asked for it is.
        row: of the block.
        some: series of the block.
        x: ``[F + 1, S]`` float32, see `regressors`; the last row is 0.
        size: ``[S]`` float64, see there.
    """

    i: int
    row: int
    some: slice
    x: Floats32
    size: Floats


def regressor_count(ring: int) -> int:
    """F: the lags from the oldest, ``R - 1``, to 1, then the mean."""
    return max(ring - 1, 0) + 1


def regressors(block: Block, row: int, some: slice, out: Floats32) -> Floats:
    """How far lags and mean lie from the last value, in 20 scales: `near_in_place`, hence from -1 to 1.

    Args:
        block: with what ring and moments say of it.
        row: of the block.
        some: series of the block.
        out: ``[F, S]``, is filled.

    Returns:
        ``[S]`` float64, by what to multiply to have them in the unit of the values.
    """
    now, lags = len(block.history) - len(block.values) + row, len(out) - 1
    last, size = block.last[row, some], OTHER_LEVEL * block.scale[row, some]
    per_size, off = 1.0 / size, np.empty((min(_LAGS, lags), len(last)))
    distances(block.mean[row, some], last, per_size, out[-1])
    for first in range(0, lags, _LAGS):
        part = out[first : min(first + _LAGS, lags)]
        past = block.history[now - lags + first : now - lags + first + len(part), some]
        distances(past, last, per_size, part, off[: len(part)])
    near_in_place(out, out[-1])
    return size


def distances(
    values: Floats, last: Floats, per_size: Floats, out: Floats32, off: Floats | None = None
) -> None:
    """How far values lie from the last one, in 20 scales; infinitely where that is beyond float32.

    Args:
        values: ``[..., S]`` float64.
        last: ``[S]`` float64, or of the values' shape.
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


def pieces(block: Block, count: int, rows: NDArray[np.integer[Any]]) -> Iterator[Rows]:
    """The ``F = count`` regressors of all series at ``rows`` ``[n]`` of a block, some series at a time.

    The memory of each is that of the next.
    """
    series = block.values.shape[1]
    for first in range(0, series, _SERIES):
        some = slice(first, min(first + _SERIES, series))
        x = np.zeros((count + 1, some.stop - first), np.float32)
        for i, row in enumerate(rows):
            yield Rows(i, int(row), some, x, regressors(block, int(row), some, x[:count]))


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

    def say(self, piece: Rows, block: Block, said: Floats32) -> None:
        """Writes into ``said`` ``[K, n, S, N]`` the changes from the last value, in units."""
        x, horizon = piece.x, self.ridge.shape[2]
        to_units = (piece.size / block.unit[piece.row, piece.some]).astype(np.float32)[:, None]
        out = said[:EXPERTS, piece.i, piece.some]
        both = x[:-1].T @ self._weights
        for k in range(RIDGES):
            np.multiply(both[:, k * horizon : (k + 1) * horizon], to_units, out=out[k])
        for k, places in enumerate(self._places, RIDGES):
            np.multiply(x[places].T, to_units, out=out[k])
        out[EXPERTS - 2] = x[-2, :, None] * to_units
        out[EXPERTS - 1] = 0.0
        np.clip(out, -_LARGEST, _LARGEST, out=out)


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
