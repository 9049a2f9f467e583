"""What a component of a state is: some arrays a series, and how a block of windows moves them on.

Letters: T windows, S series, M past windows or members, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints
from forecaster.time.frequency import Frequency


class Field(NamedTuple):
    """One array of a component.

    Attributes:
        dtype: numpy's name of its type, such as ``"float64"``.
        shape: its axes after the first, which counts the series.
    """

    dtype: str
    shape: tuple[int, ...] = ()


def _absent() -> NDArray[Any]:
    return np.empty(0)


class Outputs(NamedTuple):
    """What is said at each window of a block: arrays for components to fill, all ``[..., T, S, ...]`` alike.

    The second axis of each counts windows and the third series.

    Attributes:
        forecast: ``[Q, T, S, N]`` float64, in the unit of each series: the network's at first, then the
            combined and calibrated one.
        network: ``[Q, T, S, N]`` float64, what the network alone says; no rows where nobody asks.
        members: ``[M, T, S, N]`` float64, what each member says; no rows where nobody asks.
        anomaly: ``[2, T, S, 1]`` float64: the p-value of the window's value under the forecast of the window
            before, and 1 where that raises an alarm, else 0; NaN where there is no value or no forecast yet.
    """

    forecast: Floats
    network: Floats
    members: Floats
    anomaly: Floats

    @staticmethod
    def empty(quantiles: int, members: int, windows: int, series: int, horizon: int) -> Outputs:
        """Room for a block; ``members`` 0 where nobody asks what members and network alone say."""
        shape = (windows, series, horizon)
        alone = np.empty((quantiles if members else 0, *shape))
        anomaly = np.full((2, windows, series, 1), np.nan)
        return Outputs(np.empty((quantiles, *shape)), alone, np.empty((members, *shape)), anomaly)

    def like(self, windows: int, series: int) -> Outputs:
        """Room for other windows and series of the same kind."""
        quantiles, _, _, horizon = self.forecast.shape
        return Outputs.empty(quantiles, len(self.members), windows, series, horizon)

    def windows(self, part: slice) -> Outputs:
        """Some of the windows, in the same memory."""
        return Outputs(*(array[:, part] for array in self))

    def series(self, part: slice) -> Outputs:
        """Some of the series, in the same memory."""
        return Outputs(*(array[:, :, part] for array in self))


@dataclass(frozen=True)
class Block:
    """Windows of some series, and what each component of the chain adds for those after it.

    Attributes:
        start: ``[S]`` int64, index of the window in row 0 of each series; ``[1]`` where it is one for all.
        values: ``[T, S]`` float64, NaN where missing.
        freq: length of a window.
        lengths: ``[S]`` int64, rows of each series; what follows them is padding (NaN) and moves nothing.
            None where every series has all ``T``.
        known: ``[T + N, S or 1, C]`` float32, what is known of each window and of those after the block; read
            by networks with covariates alone.
        static: ``[S, D]`` float32, what is known of each series, likewise.
        past: ``[T, S, C]`` float64, observed covariates, NaN where missing; empty where all of them are.
        past_inputs: from the past covariates: ``[T, S, I]`` float32, what the network reads of them.
        history: from the ring: ``[M + T, S]`` float64, the ``M`` windows before the block, then its own.
        before: from the moments: ``[T, S]`` float64, value of the window before each; NaN where missing.
        mean, spread, last: from the moments: ``[T, S]`` float64 at each window's end; the spread of values
            around their mean is above 0.
        lowest, highest: from the moments: ``[T, S]`` float64, of all values so far.
        falls, rises: from the moments: ``[T, S]`` float64, by how much a value passes the lowest or highest,
            on average.
        scale: from the moments: ``[T, S]`` float64 above 0, the usual change from window to window.
        unit: from the moments: ``[T, S]`` float64 above 0, the usual change from season to season: what
            forecasts are made and judged in.
        age: from the moments: ``[T, S]`` int64, windows since the last value.
        observed: from the moments: ``[T, S]`` int64, values so far.
        moves: from the moments: ``[T, S]`` bool, whether the scale is more than how a level of this size
        rounds:
            what is measured in scales of a series that stands still is noise, and nobody should learn from
            it.
        shape: from the season: ``[T, K, S]`` float64, how far the K phases of a season lie from its mean, as
            known at each window's end.
        out: what is said of these windows, filled by the network and by what follows it.
        members: ``[N, T, S]`` float32 by name: what each expert forecasts: changes from ``last`` in scales.
        residuals: from the stacking: ``[T, A, S]`` float64, each window's value less what was forecast for it
            ``a`` windows before, for every anchor horizon ``a``; NaN where either is missing.
    """

    start: Ints
    values: Floats
    freq: Frequency
    lengths: Ints | None = None
    known: Floats32 = field(default_factory=_absent)
    static: Floats32 = field(default_factory=_absent)
    past: Floats = field(default_factory=_absent)
    past_inputs: Floats32 = field(default_factory=_absent)
    history: Floats = field(default_factory=_absent)
    before: Floats = field(default_factory=_absent)
    mean: Floats = field(default_factory=_absent)
    spread: Floats = field(default_factory=_absent)
    last: Floats = field(default_factory=_absent)
    lowest: Floats = field(default_factory=_absent)
    highest: Floats = field(default_factory=_absent)
    falls: Floats = field(default_factory=_absent)
    rises: Floats = field(default_factory=_absent)
    scale: Floats = field(default_factory=_absent)
    unit: Floats = field(default_factory=_absent)
    age: Ints = field(default_factory=_absent)
    observed: Ints = field(default_factory=_absent)
    moves: Bools = field(default_factory=_absent)
    shape: Floats = field(default_factory=_absent)
    out: Outputs = field(default_factory=lambda: Outputs.empty(0, 0, 0, 0, 0))
    members: Mapping[str, Floats32] = field(default_factory=dict)
    residuals: Floats = field(default_factory=_absent)

    def counts(self, row: int) -> Bools | None:
        """``[S]`` bool, the series whose row it is and no padding; None where it is every series'."""
        return None if self.lengths is None else row < self.lengths


def series_last(array: NDArray[Any]) -> NDArray[Any]:
    """``[S, ...]`` -> ``[..., S]``, for arithmetic on all series at once.

    What `series_first` gave is not copied, so what a component returned lies as it wants it with the next
    block.
    """
    moved = np.moveaxis(array, 0, -1)
    return moved if moved.strides[-1] == moved.itemsize else np.ascontiguousarray(moved)


def series_first(array: NDArray[Any]) -> NDArray[Any]:
    """``[..., S]`` -> ``[S, ...]``, in the same memory."""
    return np.moveaxis(array, -1, 0)


class Component(Protocol):
    """Owner of some arrays of a state. It knows its settings and weights, and keeps nothing itself.

    Attributes:
        name: what its columns in a state table begin with.
        format_version: of its arrays in a state table; a change of their meaning raises it.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def format_version(self) -> int:
        """See above."""

    def spec(self) -> Mapping[str, Field]:
        """Its fields by name."""

    def init(self, series: int) -> Arrays:
        """The arrays of series that have seen nothing."""

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Its arrays after the block, and the block with what this component adds to it.

        ``own`` belongs to the step: it may be written into, and may share memory with what is returned.
        Nothing in it depends on the other series of the block, nor on a window after the one it is for.
        """
