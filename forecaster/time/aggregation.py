"""Aggregation of rows to one value per series and window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas import replaced
from schemas.observations import OBSERVED, covariates_of

EVENTS = ("sum", "count")
"""Aggregates that count every row as an event, even if two rows have the same time."""

ORIGIN = "origin"
"""Column (Int64) that identifies the file and the place of a row.

Rows have this column if a file may be read again, with more rows, under the same name.
"""

OFFSET = "offset"
"""Column (Int64) of a row's offset; of two rows of one observation, the row with the larger offset counts."""

PARTITION = "partition"
"""Column (String) of a row's partition: at equal offsets, the row of the greater partition name counts."""

_AGGREGATES: Mapping[str, pl.Expr] = {
    "mean": pl.col("value").mean(),
    "sum": pl.col("value").sum(),
    "count": pl.len().cast(pl.Float64).alias("value"),
    "min": pl.col("value").min(),
    "max": pl.col("value").max(),
    "last": pl.col("value").last(),
}


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


NO_DUPLICATES = Duplicates(0, pl.DataFrame())
"""No duplicates: every row counts."""


def aggregate(rows: pl.DataFrame, config: WindowConfig) -> Aggregated:
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

    Returns:
        The block, from the first to the last window with a row, series in sorted order; and the rows that do
        not count.
    """
    ids = rows["series_id"].unique().sort()
    code = rows["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    window = rows.select(config.frequency.window(pl.col("timestamp"))).to_series().to_numpy()
    index = kept_windows(np.unique(window), config.max_gap)
    values = np.full((len(index), len(ids)), np.nan)
    names = [name.removeprefix(OBSERVED) for name in covariates_of(rows.columns)]
    past = np.full((*values.shape, len(names)), np.nan)
    at = np.searchsorted(index, window)
    if OFFSET not in rows.columns:
        rows = rows.with_row_index(OFFSET).with_columns(pl.col(OFFSET).cast(pl.Int64))
    duplicates = fill(values, rows, at, code, config, past, names) if len(rows) else NO_DUPLICATES
    of_names = {name: past[:, :, i] for i, name in enumerate(names)}
    windows = Windows(tuple(ids), int(index[0]) if len(index) else 0, values, of_names, index)
    return Aggregated(windows, duplicates.dropped, replaced.frame(duplicates.replaced))


def kept_windows(window: NDArray[np.int64], max_gap: int) -> NDArray[np.int64]:
    """Return the windows from the first to the last row, without those in which no series is live.

    The window in which the last series retires is kept: in it the state of that series is reset.

    Args:
        window: the windows that have a row, rising.
        max_gap: windows without a row after which a series retires.
    """
    breaks = np.flatnonzero(np.diff(window) > max_gap + 2)
    firsts, stops = [*window[:1], *window[breaks + 1]], [*(window[breaks] + max_gap + 2), *(window[-1:] + 1)]
    return np.concatenate([window[:0], *map(np.arange, firsts, stops)])


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
    # If each series has at most one row per window, the slower aggregation below is not needed.
    if np.bincount(cell).max() == 1:
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
    """Return the last row of each observation, which counts, and the other rows as `Duplicates`."""
    identity, rows = _with_identity(rows, config)
    if not identity:
        return rows, NO_DUPLICATES
    place = [OFFSET]
    if PARTITION in rows.columns and rows[PARTITION].n_unique() > 1:
        place.append(PARTITION)
    # Sort by value last, to choose among rows of an older snapshot with equal offsets and no partition.
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
    """Return the columns that identify an observation, and the rows with these columns.

    There are no such columns if every row counts as an event.
    """
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


def _fill_past(past: NDArray[np.float64] | None, rows: pl.DataFrame, names: Sequence[str]) -> None:
    """Write the covariates of ``rows`` into ``past``; the ``cell`` of a row is its window and series."""
    for place, name in enumerate(names):
        if past is not None and OBSERVED + name in rows.columns:
            found = rows[OBSERVED + name].fill_null(float("nan")).to_numpy()
            past.reshape(-1, len(names))[rows["cell"].to_numpy(), place] = found
