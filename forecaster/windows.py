"""Rows in, one value per series and window out.

Windows are counted from the Unix epoch, in UTC (see `forecaster.frequency`). Everything that steps the
network counts windows by that integer; only what people read carries timestamps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.config import WindowConfig
from schemas.observations import OBSERVED, covariates_of

MICROSECONDS = 1_000_000

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
    """A dense block of closed windows.

    Attributes:
        series_ids: ``S`` distinct ids.
        start: index of the first window.
        values: ``[T, S]`` float64; NaN where a series has no value in a window.
        past: ``[T, S]`` float64 of each observed covariate, by its name; NaN where missing.
    """

    series_ids: tuple[str, ...]
    start: int
    values: NDArray[np.float64]
    past: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.series_ids):
            raise ValueError(f"values are {self.values.shape}, not [T, {len(self.series_ids)}]")
        for name, array in self.past.items():
            if array.shape != self.values.shape:
                raise ValueError(f"covariate {name!r} is {array.shape}, and values are {self.values.shape}")

    @property
    def stop(self) -> int:
        """One past the index of the last window."""
        return self.start + len(self.values)

    def between(self, start: int, stop: int) -> Windows:
        """The part in ``[start, stop)``; bounds outside the block are cut to it."""
        first, last = max(start - self.start, 0), max(stop - self.start, 0)
        past = {name: array[first:last] for name, array in self.past.items()}
        return Windows(self.series_ids, max(start, self.start), self.values[first:last], past)

    def of_series(self, index: Sequence[int] | NDArray[np.int64]) -> Windows:
        """The series at ``index``, in that order."""
        past = {name: array[:, index] for name, array in self.past.items()}
        return Windows(tuple(self.series_ids[i] for i in index), self.start, self.values[:, index], past)

    def past_of(self, names: Sequence[str]) -> NDArray[np.float64] | None:
        """``[T, S, C]`` float64, covariates by name, NaN where missing; None where none is named."""
        if not names:
            return None
        nothing = np.full(self.values.shape, np.nan)
        return np.stack([self.past.get(name, nothing) for name in names], axis=2)


class Aggregated(NamedTuple):
    """Windows, and how many rows were second copies of another."""

    windows: Windows
    duplicates: int


def observed(windows: Windows, config: WindowConfig) -> Windows:
    """What was observed: from a series' first value on an empty window is a 0, if ``config.empty`` says so.

    Training, evaluation and baselines all see windows through this, so that they mean the same by "empty";
    `forecaster.stepping.advance` does it by the clock of each series.
    """
    if config.empty == "missing":
        return windows
    missing = np.isnan(windows.values)
    begun = np.logical_or.accumulate(~missing, axis=0)
    return replace(windows, values=np.where(missing & begun, 0.0, windows.values))


def aggregate(
    rows: pl.DataFrame, config: WindowConfig, start: int | None = None, stop: int | None = None
) -> Aggregated:
    """Observations as a dense block of windows, whatever order the rows are in.

    Rows that agree in ``series_id`` and ``timestamp`` (and ``event_id``, where there is one) are copies of
    one observation. One of them counts: the one of the largest value, a rule as good as any that does not
    depend on arrival. A covariate of a window is the mean of those of its rows that are not missing.

    Args:
        rows: observation frame (``series_id, timestamp, value[, event_id, observed...]``) of valid rows.
        config: window length and aggregate.
        start: first window of the block; by default the first with a row.
        stop: one past the last window of the block; by default the last with a row.

    Returns:
        The block, series in sorted order, and the number of duplicates.

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
    values = np.full(((stop - start), len(ids)), np.nan)
    names = [name.removeprefix(OBSERVED) for name in covariates_of(rows.columns)]
    past = np.full((*values.shape, len(names)), np.nan)
    duplicates = fill(values, rows, window - start, code, config, past, names) if len(rows) else 0
    of_names = {name: past[:, :, i] for i, name in enumerate(names)}
    return Aggregated(Windows(tuple(ids) if len(rows) else (), start, values, of_names), duplicates)


def fill(
    values: NDArray[np.float64],
    rows: pl.DataFrame,
    window: NDArray[np.int64],
    series: NDArray[np.int64],
    config: WindowConfig,
    past: NDArray[np.float64] | None = None,
    names: Sequence[str] = (),
) -> int:
    """Aggregates rows into a block of windows, and counts those that were second copies of another.

    Args:
        values: ``[T, S]`` float64, NaN; each window with a row gets its value.
        rows: ``timestamp, value[, event_id, observed...]``, one or more.
        window: ``[rows]`` int64, which of the ``T`` windows each row falls in.
        series: ``[rows]`` int64, which of the ``S`` series it belongs to.
        config: which aggregate.
        past: ``[T, S, C]`` float64, NaN; each window with a row gets its covariates.
        names: of the ``C`` covariates; one that rows have no column of is missing.
    """
    cell = window * values.shape[1] + series
    if np.bincount(cell).max() == 1:  # one row a window: nothing to copy, nothing to aggregate
        values.reshape(-1)[cell] = 1.0 if config.aggregate == "count" else rows["value"].to_numpy()
        if names:
            _fill_past(past, rows.with_columns(cell=pl.Series(cell)), names)
        return 0
    identity = ["cell", *(name for name in ("timestamp", "event_id") if name in rows.columns)]
    kept = (
        rows.with_columns(cell=pl.Series(cell))
        # also fixes the order of a floating-point sum
        .sort(*identity, "value", *covariates_of(rows.columns))
        .unique(identity, keep="last", maintain_order=True)
    )
    cells = kept.group_by("cell", maintain_order=True).agg(_AGGREGATES[config.aggregate])
    values.reshape(-1)[cells["cell"].to_numpy()] = cells["value"].to_numpy()
    means = [name for name in covariates_of(rows.columns) if name.removeprefix(OBSERVED) in names]
    if means:
        _fill_past(past, kept.group_by("cell", maintain_order=True).agg(pl.col(means).mean()), names)
    return len(rows) - len(kept)


def _fill_past(past: NDArray[np.float64] | None, rows: pl.DataFrame, names: Sequence[str]) -> None:
    """Writes the covariates of ``rows``, one a ``cell``, into ``past``."""
    for place, name in enumerate(names):
        if past is not None and OBSERVED + name in rows.columns:
            found = rows[OBSERVED + name].fill_null(float("nan")).to_numpy()
            past.reshape(-1, len(names))[rows["cell"].to_numpy(), place] = found
