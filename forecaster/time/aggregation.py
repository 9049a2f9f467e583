"""Aggregate rows to one value per series and window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.duplicates import (
    NO_DUPLICATES,
    OFFSET,
    Duplicates,
    Keep,
    has_dropped,
    split_duplicates,
)
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas import replaced
from schemas.observations import OBSERVED, covariates_of

_AGGREGATES: Mapping[str, pl.Expr] = {
    "mean": pl.col("value").mean(),
    "sum": pl.col("value").sum(),
    "count": pl.len().cast(pl.Float64).alias("value"),
    "min": pl.col("value").min(),
    "max": pl.col("value").max(),
    "last": pl.col("value").last(),
}


class Aggregated(NamedTuple):
    """Aggregated windows, the number of duplicates among their rows, and the duplicates that were replaced.

    Attributes:
        windows: the block.
        duplicates: how many rows do not count, as another row belongs to the same observation or event.
        replaced: the rows among them that differ from the row that counts (``schemas.replaced``).
    """

    windows: Windows
    duplicates: int
    replaced: pl.DataFrame


def aggregate(rows: pl.DataFrame, config: WindowConfig, keep: Keep = "last") -> Aggregated:
    """Aggregate observations to a block of windows; row order matters only for duplicates without offsets.

    Rows with the same ``series_id`` and ``timestamp`` are one observation; with an ``event_id``, rows with
    the same ``series_id`` and ``event_id``, whatever their times. The later row counts: the one with the
    larger ``offset`` (with the greater ``partition`` if the offsets are equal), or the one further down if
    rows have no offsets; with ``keep="first"`` the earlier one. With ``sum`` and ``count``, rows without an
    ``event_id`` are events, and all of them count. A covariate of a window is the mean of its rows' values
    that are not missing.

    Windows in which no series is live are left out, as a stream skips them: the size of the block depends on
    the number of rows and not on the time between them.

    Args:
        rows: observation frame (``series_id, timestamp, value[, event_id, observed...]``) of valid rows.
        config: window length and aggregate.
        keep: which row of an observation counts.

    Returns:
        The block, from the first to the last window with a row, series in sorted order; and the number of
        duplicates, and which of them were replaced.
    """
    if OFFSET not in rows.columns:
        rows = rows.with_row_index(OFFSET).with_columns(pl.col(OFFSET).cast(pl.Int64))
    rows, versions = _without_versions(rows, config, keep)
    ids = rows["series_id"].unique().sort()
    code = rows["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    window = rows.select(config.frequency.window(pl.col("timestamp"))).to_series().to_numpy()
    index = kept_windows(np.unique(window), config.max_gap)
    values = np.full((len(index), len(ids)), np.nan)
    names = [name.removeprefix(OBSERVED) for name in covariates_of(rows.columns)]
    past = np.full((*values.shape, len(names)), np.nan)
    at = np.searchsorted(index, window)
    duplicates = fill(values, rows, at, code, config, past, names, keep) if len(rows) else NO_DUPLICATES
    of_names = {name: past[:, :, i] for i, name in enumerate(names)}
    windows = Windows(tuple(ids), int(index[0]) if len(index) else 0, values, of_names, index)
    lost = pl.concat([replaced.frame(one.replaced) for one in (duplicates, versions)], how="diagonal")
    return Aggregated(windows, duplicates.dropped + versions.dropped, lost)


def _without_versions(
    rows: pl.DataFrame, config: WindowConfig, keep: Keep
) -> tuple[pl.DataFrame, Duplicates]:
    """Return the rows with only one version of each event, and the other versions as duplicates."""
    if "event_id" not in rows.columns:
        return rows, NO_DUPLICATES
    of_event = pl.struct("series_id", "event_id").is_duplicated() & pl.col("event_id").is_not_null()
    repeated = rows.select(of_event).to_series()
    if not repeated.any():
        return rows, NO_DUPLICATES
    counting, versions = split_duplicates(rows.filter(repeated).with_columns(cell="series_id"), config, keep)
    return pl.concat([rows.filter(~repeated), counting.select(rows.columns)]), versions


def kept_windows(window: NDArray[np.int64], max_gap: int) -> NDArray[np.int64]:
    """Return the windows from the first to the last with a row; in a gap, skip windows after all retire.

    A gap lies between two windows with a row. All series have retired when no window had a row for more
    than ``max_gap`` windows. The window in which the last series retires is kept: in it the state of that
    series is reset.

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
    keep: Keep = "last",
) -> Duplicates:
    """Aggregate rows into a block of windows, and return the duplicates among the rows.

    Args:
        values: ``[T, S]`` float64, all NaN; each window with a row gets its value.
        rows: ``timestamp, value, offset[, partition, event_id, origin, observed..., dropped...]``, at least
            one row.
        window: ``[rows]`` int64, which of the ``T`` windows each row falls in.
        series: ``[rows]`` int64, which of the ``S`` series it belongs to.
        config: which aggregate.
        past: ``[T, S, C]`` float64, all NaN; each window with a row gets its covariates.
        names: names of the ``C`` covariates; one without a column in ``rows`` is missing.
        keep: which row of an observation counts.

    Returns:
        The duplicates; the replaced ones have the columns of ``rows``.
    """
    cell = window * values.shape[1] + series
    # Skip the slower aggregation below if each series has at most one row per window, and every row counts.
    if np.bincount(cell).max() == 1 and not has_dropped(rows):
        values.reshape(-1)[cell] = 1.0 if config.aggregate == "count" else rows["value"].to_numpy()
        if names:
            _fill_past(past, rows.with_columns(cell=pl.Series(cell)), names)
        return NO_DUPLICATES
    kept, duplicates = split_duplicates(rows.with_columns(cell=pl.Series(cell)), config, keep)
    # Sort the rows: a floating-point sum must not depend on the order in which the rows came.
    event = ["event_id"] if "event_id" in rows.columns else []
    kept = kept.sort("cell", "timestamp", *event, "value", *covariates_of(rows.columns))
    cells = kept.group_by("cell", maintain_order=True).agg(_AGGREGATES[config.aggregate])
    values.reshape(-1)[cells["cell"].to_numpy()] = cells["value"].to_numpy()
    means = [name for name in covariates_of(rows.columns) if name.removeprefix(OBSERVED) in names]
    if means:
        _fill_past(past, kept.group_by("cell", maintain_order=True).agg(pl.col(means).mean()), names)
    return duplicates


def _fill_past(past: NDArray[np.float64] | None, rows: pl.DataFrame, names: Sequence[str]) -> None:
    """Write the observed covariates of each row into ``past``, if ``past`` is not None.

    The ``cell`` of a row is the flat index of its window and series.
    """
    for place, name in enumerate(names):
        if past is not None and OBSERVED + name in rows.columns:
            found = rows[OBSERVED + name].fill_null(float("nan")).to_numpy()
            past.reshape(-1, len(names))[rows["cell"].to_numpy(), place] = found
