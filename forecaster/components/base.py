"""The contract of a component, and the block of windows that the components of a chain step through.

Letters: T windows, S series, M past windows or members, N horizon, Q quantiles, C known or observed
covariates, D static features, I inputs, K windows of a season or scored horizons, A anchor horizons, B
buckets.
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
    """The dtype and the shape of one array of a component.

    Attributes:
        dtype: numpy's name of the dtype, such as ``"float64"``.
        shape: the axes after the first one, which is the series.
    """

    dtype: str
    shape: tuple[int, ...] = ()


def _absent() -> NDArray[Any]:
    """Return the empty array of a block field that no component has filled yet."""
    return np.empty(0)


class Outputs(NamedTuple):
    """The arrays that the components of a chain fill for one block: forecasts, alarms and scores.

    In every array axis 1 is the window and axis 2 the series. The *members* are the network and the experts,
    whose forecasts the stacking combines.

    Attributes:
        forecast: ``[Q, T, S, N]`` float64, the quantiles in each series' own unit of measurement. The network
            writes its forecast; the stacking moves it to the combined one, and the intervals calibrate it.
        network: ``[Q, T, S, N]`` float64, the forecast of the network alone; Q is 0 if it is not requested.
        members: ``[M, T, S, N]`` float64, the forecast of each member; M is 0 if they are not requested.
        anomaly: ``[2, T, S, 1]`` float64: the p-value of each window's value under the forecast of the window
            before, then 1 for an alarm and 0 for none. Both are NaN if the value or that forecast is missing.
        scores: ``[3, T, S, K]`` float64, of the forecasts that were issued for each window 1 to N windows
            before, at the scored horizons: the error of the median (actual less forecast) and the pinball
            loss, averaged over the quantiles, both in units, then 1 if the actual was inside the outermost
            quantiles and 0 if not. NaN if the actual or the forecast is missing; without stored intervals,
            only the error is not NaN. K is 0 if they are not requested.
    """

    forecast: Floats
    network: Floats
    members: Floats
    anomaly: Floats
    scores: Floats

    @staticmethod
    def empty(
        quantiles: int, members: int, windows: int, series: int, horizon: int, scored: int = 0
    ) -> Outputs:
        """Return new arrays for a block's outputs: NaN in ``anomaly`` and ``scores``, the others not filled.

        ``members`` is 0 if the members' forecasts are not requested; ``scored`` is the number of scored
        horizons, K.
        """
        shape = (windows, series, horizon)
        network = np.empty((quantiles if members else 0, *shape))
        anomaly = np.full((2, windows, series, 1), np.nan)
        scores = np.full((3, windows, series, scored), np.nan)
        return Outputs(np.empty((quantiles, *shape)), network, np.empty((members, *shape)), anomaly, scores)

    def like(self, windows: int, series: int) -> Outputs:
        """Return new arrays, as `empty` makes them, for ``windows`` windows and ``series`` series.

        The other axes keep their lengths.
        """
        quantiles, _, _, horizon = self.forecast.shape
        scored = self.scores.shape[-1]
        return Outputs.empty(quantiles, len(self.members), windows, series, horizon, scored)

    def windows(self, part: slice) -> Outputs:
        """Return the outputs of the windows in the slice ``part``, as views."""
        return Outputs(*(array[:, part] for array in self))

    def series(self, part: slice) -> Outputs:
        """Return the outputs of the series in the slice ``part``, as views."""
        return Outputs(*(array[:, :, part] for array in self))


@dataclass(frozen=True)
class Block:
    """Consecutive windows of some series: values, covariates, and the fields that the components add.

    The caller (`forecaster.stepping.step_block`) fills the fields from ``start`` to ``past`` and allocates
    ``out``. Each component adds the fields named for it below, for the components after it in the chain, and
    declares the fields that it reads and writes (`Component`). A field is an empty array until its component
    has stepped. What a component adds at window ``t`` depends on windows up to ``t`` only.

    Attributes:
        start: ``[S]`` int64, the window in row 0 of each series; ``[1]`` if it is the same for all.
        values: ``[T, S]`` float64, NaN if missing.
        freq: the length of a window.
        lengths: ``[S]`` int64, the number of rows of each series; the rows after them are padding (NaN) and
            change no state. None if every series has ``T`` rows.
        known: ``[T + N, S or 1, C]`` float32, calendar and known covariates of the block's windows and of the
            ``N`` windows after it; only networks with covariates read it.
        static: ``[S, D]`` float32, the static features of each series; only networks with covariates read it.
        past: ``[T, S, C]`` float64, the observed covariates, NaN if missing; empty if all are missing.
        edges: ``[S, I, B - 1]`` float32, the edges of the buckets of the training profile, NaN for a series
            without a profile; empty if the model has no profile.
        observed_inputs: written by `ObservedCovariates`: ``[T, S, I]`` float32, inputs made from ``past``.
        history: written by `Ring`: ``[M + T, S]`` float64, the values of the ``M`` windows before the block,
            then the values of the block.
        before: written by `Moments`: ``[T, S]`` float64, the value of the window before each window; NaN if
            it is missing.
        mean: written by `Moments`: ``[T, S]`` float64, the running mean of the values.
        spread: written by `Moments`: ``[T, S]`` float64 above 0, the standard deviation around that mean.
        last: written by `Moments`: ``[T, S]`` float64, the last value observed.
        lowest: written by `Moments`: ``[T, S]`` float64, the lowest value so far.
        highest: written by `Moments`: ``[T, S]`` float64, the highest value so far.
        falls: written by `Moments`: ``[T, S]`` float64, how far a value falls below the lowest value before
            it, on average (0 for a value that does not); at least 0.
        rises: written by `Moments`: ``[T, S]`` float64, how far a value rises above the highest value before
            it, on average (0 for a value that does not); at least 0.
        scale: written by `Moments`: ``[T, S]`` float64 above 0, the usual change from window to window.
        unit: written by `Moments`: ``[T, S]`` float64 above 0, the usual change from season to season. The
            network's forecasts and its training loss are in this unit.
        age: written by `Moments`: ``[T, S]`` int64, windows since the last value; 0 in a window with a value.
        observed: written by `Moments`: ``[T, S]`` int64, the number of values so far.
        moves: written by `Moments`: ``[T, S]`` bool, True if ``scale`` is more than the rounding error of the
            level. If False, the series is constant, and a change measured in scales is noise that no
            component may learn from.
        shape: written by `Season`: ``[T, K, S]`` float64, the differences of the K phases of a season from
            the season's mean, as learned up to each window's end.
        out: the forecasts of these windows, written by the network, stacking, intervals and anomaly.
        members: written by the experts: ``[N, T, S]`` float32 by name of the expert, its forecasts as changes
            from ``last``, in scales.
        residuals: written by `Stacking`: ``[T, A, S]`` float64, each window's value less the combined
            forecast issued for it ``a`` windows before, for every anchor horizon ``a``; NaN if either is
            missing.
        bands: written by `Intervals`: ``[T, K, Q - 1, S]`` float64, the distances from the combined forecast
            of all quantiles but the median, as issued for each window at the scored horizons; NaN if missing.
    """

    start: Ints
    values: Floats
    freq: Frequency
    lengths: Ints | None = None
    known: Floats32 = field(default_factory=_absent)
    static: Floats32 = field(default_factory=_absent)
    past: Floats = field(default_factory=_absent)
    edges: Floats32 = field(default_factory=_absent)
    observed_inputs: Floats32 = field(default_factory=_absent)
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
    bands: Floats = field(default_factory=_absent)

    @property
    def counts(self) -> Bools:
        """A mask of the block: True at the windows of a series, False in the padding after its last window.

        It is ``[T, S]``; if ``lengths`` is None, no series has padding, and it is ``[T, 1]`` and all True.
        """
        windows = len(self.values)
        return np.arange(windows)[:, None] < (windows if self.lengths is None else self.lengths)

    def with_fields(self, **fields: Any) -> Block:
        """Return a copy of the block with other contents of some fields.

        It does the same as `dataclasses.replace` in a tenth of the time: every component calls it.
        """
        block = object.__new__(type(self))
        vars(block).update(vars(self), **fields)
        return block


FIELDS_OF_CALLER = frozenset({"start", "values", "freq", "lengths", "known", "static", "past", "edges"})
"""The fields of a `Block` that the caller of the chain fills: every component may read them, and no component
changes them.
"""


def series_last(array: NDArray[Any]) -> NDArray[Any]:
    """Move the first axis, the series, to the end, for arithmetic on all series at once.

    An array that `series_first` returned is not copied: its memory is in this order already. So a component
    copies nothing when it gets back the arrays that it returned for the block before.
    """
    moved = array.transpose(*range(1, array.ndim), 0)  # `np.moveaxis` would be slower, and this runs often
    return moved if moved.strides[-1] == moved.itemsize else np.ascontiguousarray(moved)


def series_first(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of an array with the last axis, the series, as the first."""
    return array.transpose(array.ndim - 1, *range(array.ndim - 1))


class Component(Protocol):
    """A part of the model that owns some arrays of the state.

    A component has settings and weights, but stores no state itself: the caller passes the component's arrays
    to `step`, which returns the new arrays.

    Attributes:
        name: the beginning of the names of its columns in a state table.
        format_version: the format of its arrays in a state table; increase it when their meaning changes.
        reads: the fields of the block that `step` reads, without `FIELDS_OF_CALLER`. An array in a field is
            named with a dot: ``out.forecast``, ``members.persistence``.
        writes: the fields of the block that `step` fills or changes, named in the same way.
    """

    @property
    def name(self) -> str:
        """The name of the component; the names of its columns in a state table begin with it."""

    @property
    def format_version(self) -> int:
        """The format version of the component's arrays in a state table."""

    @property
    def reads(self) -> frozenset[str]:
        """The names of the block's fields that `step` reads and another component fills."""

    @property
    def writes(self) -> frozenset[str]:
        """The names of the block's fields that `step` fills or changes."""

    def spec(self) -> Mapping[str, Field]:
        """Return, by name, the dtype and shape of each array; the shape leaves out the axis of series."""

    def init(self, series: int) -> Arrays:
        """Return the initial arrays, for series that have no value yet."""

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Return the component's arrays after the block, and the block with `writes` filled or changed.

        ``step`` may write into ``own``, and may return arrays that share its memory. Nothing that it computes
        for a series depends on the other series of the block, nor on a later window.
        """
