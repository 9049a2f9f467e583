"""Aggregation of rows to one value per series and window.

Windows are counted from the Unix epoch, in UTC (see `forecaster.time.frequency`). All code that steps the
network uses these integers; only outputs for people have timestamps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.window_config import WindowConfig
from schemas import replaced
from schemas.observations import OBSERVED, covariates_of

MICROSECONDS = 1_000_000
NEVER = -(2**62)
"""The row of the last value of a series without a value."""
EVENTS = ("sum", "count")
"""Aggregates that count every row as an event, even if two rows have the same time."""

ORIGIN = "origin"
"""Column (Int64) that identifies the file and place of a row, if a file may be read again under its name."""

OFFSET = "offset"
"""Column (Int64) of a row's offset; of two rows of one observation the one with the larger offset counts."""

PARTITION = "partition"
"""Column (String) of a row's partition: at equal offsets, the row of the greater partition name counts."""

_DAYS_OF_ISO = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_AGGREGATES: Mapping[str, pl.Expr] = {
    "mean": pl.col("value").mean(),
    "sum": pl.col("value").sum(),
    "count": pl.len().cast(pl.Float64).alias("value"),
    "min": pl.col("value").min(),
    "max": pl.col("value").max(),
    "last": pl.col("value").last(),
}


@dataclass(frozen=True)
class Windows:
    """A block of closed windows in rising order; windows in which no series is live may be left out.

    Attributes:
        series_ids: ``S`` distinct ids.
        start: index of the first window.
        values: ``[T, S]`` float64; NaN if a series has no value in a window.
        past: observed covariates by name, ``[T, S]`` float64 each; NaN if missing.
        index: ``[T]`` int64, the window of each row; by default consecutive windows from ``start``.
    """

    series_ids: tuple[str, ...]
    start: int
    values: NDArray[np.float64]
    past: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    index: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.series_ids):
            raise ValueError(f"values are {self.values.shape}, not [T, {len(self.series_ids)}]")
        for name, array in self.past.items():
            if array.shape != self.values.shape:
                raise ValueError(f"covariate {name!r} is {array.shape}, and values are {self.values.shape}")
        if not len(self.index):
            object.__setattr__(self, "index", self.start + np.arange(len(self.values)))
        if len(self.index) != len(self.values) or (np.diff(self.index) < 1).any():
            raise ValueError("index must hold a window for each row of values, and rise")

    @property
    def stop(self) -> int:
        """One past the index of the last window."""
        return int(self.index[-1]) + 1 if len(self.index) else self.start

    @property
    def filled(self) -> NDArray[np.int64]:
        """The windows in which at least one series has a value."""
        return self.index[~np.isnan(self.values).all(axis=1)]

    def between(self, start: int, stop: int) -> Windows:
        """Return the windows in ``[start, stop)``; bounds may lie outside the block."""
        first, last = np.searchsorted(self.index, [start, stop]).tolist()
        part = self.rows(first, last)
        return part if len(part.values) else replace(part, start=max(start, self.start))

    def rows(self, first: int, stop: int) -> Windows:
        """Return the rows ``[first, stop)``; windows that are left out have no row."""
        index = self.index[first:stop]
        start = int(self.index[first]) if first < len(self.index) else self.stop
        past = {name: array[first:stop] for name, array in self.past.items()}
        return Windows(self.series_ids, start, self.values[first:stop], past, index)

    def runs(self) -> Iterator[Windows]:
        """Yield the block in parts without a left-out window, in order."""
        breaks = np.flatnonzero(np.diff(self.index) > 1) + 1
        for first, stop in pairwise([0, *breaks.tolist(), len(self.index)]):
            yield self.rows(first, stop)

    def row_of(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the last row at or before each window; -1 if there is none."""
        return np.searchsorted(self.index, window, side="right") - 1

    def of_series(self, index: Sequence[int] | NDArray[np.int64]) -> Windows:
        """Return the series at ``index``, in that order."""
        past = {name: array[:, index] for name, array in self.past.items()}
        ids = tuple(self.series_ids[i] for i in index)
        return Windows(ids, self.start, self.values[:, index], past, self.index)

    def stacked_covariates(self, names: Sequence[str]) -> NDArray[np.float64] | None:
        """Return covariates by name, ``[T, S, C]`` float64, NaN if missing; None if no name is given."""
        if not names:
            return None
        nothing = np.full(self.values.shape, np.nan)
        return np.stack([self.past.get(name, nothing) for name in names], axis=2)


class Duplicates(NamedTuple):
    """Rows that do not count because a later row belongs to the same observation.

    Attributes:
        dropped: the number of these rows.
        replaced: the rows among them whose value or covariates differ from the row that counts, with the
            value of that row in ``replaced_by``; the others are exact copies.
    """

    dropped: int
    replaced: pl.DataFrame


class Aggregated(NamedTuple):
    """Aggregated windows, and the rows that were not used for them.

    Attributes:
        windows: the block.
        duplicates: the number of rows that do not count because a later row belongs to the same observation.
        replaced: the rows among them that have another value than the later row (``schemas.replaced``).
    """

    windows: Windows
    duplicates: int
    replaced: pl.DataFrame


def latest_rows(seen: NDArray[np.bool_], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each series' last value before each of ``T`` rows and after all: ``[T + 1, S]``.

    Args:
        seen: ``[T, S]``, whether there is a value.
        before: ``[S]``, the row of the last value before the block, which is negative; `NEVER` without one.
    """
    latest = np.empty((len(seen) + 1, seen.shape[1]), np.int64)
    latest[0] = before
    latest[1:] = np.where(seen, np.arange(len(seen))[:, None], NEVER)
    return np.maximum.accumulate(latest, axis=0, out=latest)


def observed(windows: Windows, config: WindowConfig) -> Windows:
    """Replace empty windows of live series by 0 if ``config.empty`` is "zero".

    A series is live from its first value until it has had none for more than ``config.max_gap`` windows.
    Training, evaluation and baselines all use this function, so that "empty" has one meaning;
    `forecaster.stepping.advance` does the same by the clock of each series.
    """
    if config.empty == "missing":
        return windows
    missing = np.isnan(windows.values)
    latest = latest_rows(~missing, np.full(missing.shape[1], NEVER))[1:]
    # A gap can be counted in rows of the array, because no window is left out while a series is live.
    is_live = np.arange(len(missing))[:, None] - latest <= config.max_gap
    return replace(windows, values=np.where(missing & is_live, 0.0, windows.values))


def aggregate(
    rows: pl.DataFrame, config: WindowConfig, start: int | None = None, stop: int | None = None
) -> Aggregated:
    """Aggregate observations to a block of windows; the order of the rows does not matter.

    Rows with the same ``series_id`` and ``timestamp`` (and ``event_id``, if there is one) are one
    observation, and the later row counts: the one with the larger ``offset`` (with the greater ``partition``
    if the offsets are equal), or the one further down if rows have no offsets. With ``sum`` and ``count``,
    rows without an ``event_id`` are events, and all of them count. A covariate of a window is the mean of its
    rows' values that are not missing.

    Windows in which no series is live are left out, as a stream skips them: the size of the block depends on
    the number of rows and not on the time between them.

    Args:
        rows: observation frame (``series_id, timestamp, value[, event_id, observed...]``) of valid rows.
        config: window length and aggregate.
        start: first window of the block; by default the first with a row.
        stop: one past the last window of the block; by default the last with a row.

    Returns:
        The block, series in sorted order, and the rows that do not count.

    Raises:
        ValueError: a row lies outside ``[start, stop)``.
    """
    ids = rows["series_id"].unique().sort()
    code = rows["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    window = rows.select(config.frequency.window(pl.col("timestamp"))).to_series().to_numpy()
    if start is None:
        start = int(window.min()) if len(window) else 0
    if stop is None:
        stop = int(window.max()) + 1 if len(window) else start
    if len(window) and (window.min() < start or window.max() >= stop):
        raise ValueError(f"rows lie outside the windows [{start}, {stop})")
    index = kept_windows(np.unique(window), start, stop, config.max_gap)
    values = np.full((len(index), len(ids)), np.nan)
    names = [name.removeprefix(OBSERVED) for name in covariates_of(rows.columns)]
    past = np.full((*values.shape, len(names)), np.nan)
    at = np.searchsorted(index, window)
    if OFFSET not in rows.columns:
        rows = rows.with_row_index(OFFSET).with_columns(pl.col(OFFSET).cast(pl.Int64))
    duplicates = fill(values, rows, at, code, config, past, names) if len(rows) else NO_DUPLICATES
    of_names = {name: past[:, :, i] for i, name in enumerate(names)}
    windows = Windows(tuple(ids) if len(rows) else (), start, values, of_names, index)
    return Aggregated(windows, duplicates.dropped, replaced.frame(duplicates.replaced))


def kept_windows(window: NDArray[np.int64], start: int, stop: int, max_gap: int) -> NDArray[np.int64]:
    """Return the windows of ``[start, stop)`` without those between two rows in which no series is live.

    The window in which the last series retires is kept: in it the state of that series is reset.

    Args:
        window: the windows that have a row, rising.
        start: first window of the block.
        stop: one past its last window.
        max_gap: windows without a row after which a series retires.
    """
    breaks = np.flatnonzero(np.diff(window) > max_gap + 2)
    firsts, stops = [start, *window[breaks + 1]], [*(window[breaks] + max_gap + 2), stop]
    return np.concatenate([np.arange(first, end) for first, end in zip(firsts, stops, strict=True)])


def fill(
    values: NDArray[np.float64],
    rows: pl.DataFrame,
    window: NDArray[np.int64],
    series: NDArray[np.int64],
    config: WindowConfig,
    past: NDArray[np.float64] | None = None,
    names: Sequence[str] = (),
) -> Duplicates:
    """Aggregate rows into a block of windows, and return the rows that do not count.

    Args:
        values: ``[T, S]`` float64, all NaN; each window with a row gets its value.
        rows: ``timestamp, value, offset[, partition, event_id, origin, observed...]``, at least one row.
        window: ``[rows]`` int64, which of the ``T`` windows each row falls in.
        series: ``[rows]`` int64, which of the ``S`` series it belongs to.
        config: which aggregate.
        past: ``[T, S, C]`` float64, all NaN; each window with a row gets its covariates.
        names: names of the ``C`` covariates; one without a column in ``rows`` is missing.

    Returns:
        The rows that do not count; replaced rows have the columns of ``rows``.
    """
    cell = window * values.shape[1] + series
    if np.bincount(cell).max() == 1:  # every window has one row: skip the slower aggregation
        values.reshape(-1)[cell] = 1.0 if config.aggregate == "count" else rows["value"].to_numpy()
        if names:
            _fill_past(past, rows.with_columns(cell=pl.Series(cell)), names)
        return NO_DUPLICATES
    kept, duplicates = _later_rows(rows.with_columns(cell=pl.Series(cell)), config)
    # Sort the rows: a floating-point sum must not depend on the order in which the rows came.
    event = ["event_id"] if "event_id" in rows.columns else []
    kept = kept.sort("cell", "timestamp", *event, "value", *covariates_of(rows.columns))
    cells = kept.group_by("cell", maintain_order=True).agg(_AGGREGATES[config.aggregate])
    values.reshape(-1)[cells["cell"].to_numpy()] = cells["value"].to_numpy()
    means = [name for name in covariates_of(rows.columns) if name.removeprefix(OBSERVED) in names]
    if means:
        _fill_past(past, kept.group_by("cell", maintain_order=True).agg(pl.col(means).mean()), names)
    return duplicates


def _later_rows(rows: pl.DataFrame, config: WindowConfig) -> tuple[pl.DataFrame, Duplicates]:
    """Return the later row of each observation, which counts, and the other rows as `Duplicates`."""
    identity, rows = _with_identity(rows, config)
    if not identity:
        return rows, NO_DUPLICATES
    place = [OFFSET]
    if PARTITION in rows.columns and rows[PARTITION].n_unique() > 1:
        place.append(PARTITION)
    # Sort by value last: rows of an older snapshot may have equal offsets and have no partition.
    content = ["value", *covariates_of(rows.columns)]
    rows = rows.sort(*identity, *place, *content, nulls_last=False)
    number = rows.select(pl.struct(identity).rle_id()).to_series()
    is_last = (number != number.shift(-1)).fill_null(True)
    if is_last.all():
        return rows, NO_DUPLICATES
    counting = {name: pl.col(name).last().over("number") for name in content}
    dropped = (
        rows.with_columns(number=number)
        .with_columns(
            differs=pl.any_horizontal(pl.col(name).ne_missing(last) for name, last in counting.items()),
            replaced_by=counting["value"],
        )
        .filter(~is_last)
    )
    return rows.filter(is_last), Duplicates(len(dropped), dropped.filter("differs"))


def _with_identity(rows: pl.DataFrame, config: WindowConfig) -> tuple[list[str], pl.DataFrame]:
    """Return the columns that identify an observation, and the rows with them; no columns for events."""
    at = ["cell", "timestamp"]
    if config.aggregate not in EVENTS:
        return [*at, *(name for name in ("event_id",) if name in rows.columns)], rows
    own = "event_id" if "event_id" in rows.columns else ORIGIN
    if own not in rows.columns:
        return [], rows
    # A row with a null id, such as a pending row in another job's state table, counts as its own event.
    alone = pl.when(pl.col(own).is_null()).then(pl.int_range(pl.len(), dtype=pl.Int64))
    content = ["value"] if own == ORIGIN else []
    return [*at, own, *content, "alone"], rows.with_columns(alone=alone)


NO_DUPLICATES = Duplicates(0, pl.DataFrame())
"""No duplicates: every row counts."""


def _fill_past(past: NDArray[np.float64] | None, rows: pl.DataFrame, names: Sequence[str]) -> None:
    """Write the covariates of ``rows``, which has one row for each ``cell``, into ``past``."""
    for place, name in enumerate(names):
        if past is not None and OBSERVED + name in rows.columns:
            found = rows[OBSERVED + name].fill_null(float("nan")).to_numpy()
            past.reshape(-1, len(names))[rows["cell"].to_numpy(), place] = found
