"""Schema of observations, and ``validate``, which checks every row of the input."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Optional

import pandera.polars as pa
import polars as pl

from schemas import cells, quarantine
from schemas.checking import failing
from schemas.errors import DataError
from schemas.faults import LOCAL, Cause, faults_of, faults_of_problem, rejected_rows
from schemas.time_zones import is_utc

SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
}
"""Columns and types of an observation frame, a data frame of valid rows.

Further columns may follow:

- ``event_id: String``, if the job names a column of event ids;
- ``observed.NAME: Float64``, for each observed covariate; null is a missing value;
- ``offset: Int64``, if the rows have offsets in a partition.
"""

OBSERVED = "observed."
"""Prefix of the columns of observed covariates.

With the prefix, a covariate can have the name of another column: ``observed.value`` differs from ``value``.
"""

LARGEST = 1e100
"""Largest absolute value of an observation.

A float64 overflows at 1.8e308, so the square of a number above 1.3e154 overflows. The limit is much smaller,
so that sums of the squares of many values do not overflow either.
"""

_UNREADABLE = "row cannot be read"
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
FIRST_TIME = datetime(1678, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
"""An observation must have a time from `FIRST_TIME` to `LAST_TIME`.

Tools that count time in nanoseconds, such as pandas, can represent only times between 1677 and 2262.
"""


class Observation(pa.DataFrameModel):
    """One value of one series at one time.

    Times are in UTC, from `FIRST_TIME` to `LAST_TIME`. Values are from -`LARGEST` to `LARGEST`. Two rows with
    the same series and time are duplicates; if rows have an ``event_id``, two with the same series and event.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        in_range={"min_value": FIRST_TIME, "max_value": LAST_TIME}
    )
    value: pl.Float64 = pa.Field(in_range={"min_value": -LARGEST, "max_value": LARGEST})
    event_id: Optional[pl.String] = pa.Field(str_contains=r"\S")  # noqa: UP045 - pandera reads Optional

    class Config:
        """Pandera refuses a frame with other columns, or with these columns in another order."""

        strict = True
        ordered = True


# Build the schema once, here: if `Observation` itself were used, each thread would build the schema again.
_OBSERVATIONS = Observation.to_schema()


@lru_cache(maxsize=64)
def _with_covariates(names: tuple[str, ...]) -> pa.DataFrameSchema:
    within = pa.Check.in_range(-LARGEST, LARGEST)
    return _OBSERVATIONS.add_columns({n: pa.Column(pl.Float64(), within, nullable=True) for n in names})


def covariates_of(columns: Iterable[str]) -> list[str]:
    """Return the columns of observed covariates among ``columns``, in their order."""
    return [name for name in columns if name.startswith(OBSERVED)]


def optional_columns(columns: Iterable[str]) -> list[str]:
    """Return the ``event_id`` and the observed covariates among ``columns``, in the order of ``columns``."""
    return [name for name in columns if name == "event_id" or name.startswith(OBSERVED)]


def empty(event_id: bool = False, offset: bool = False) -> pl.DataFrame:
    """Return an empty observation frame."""
    more: dict[str, pl.DataType] = {"event_id": pl.String()} if event_id else {}
    return pl.DataFrame(schema=SCHEMA | more | ({"offset": pl.Int64()} if offset else {}))


def lacks_zone(frame: pl.DataFrame) -> bool:
    """Return True if a time in a raw frame has no time zone; by default `validate` reads it as UTC."""
    return cells.lacks_zone(frame["timestamp"])


def validate(
    frame: pl.DataFrame, time_format: str = cells.AUTO, time_zone: str = ""
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split raw rows into valid rows and quarantined rows; each raw row is in exactly one of the two.

    The raw frame must have the columns ``series_id``, ``timestamp`` and ``value``, of any type. It may also
    have these columns:

    - ``event_id``, of any type;
    - ``observed.NAME``, for each observed covariate. An empty cell or NaN is a missing value, not a fault;
    - ``file`` (String), the file that contains the row. Without this column, quarantined rows have "";
    - ``row`` (Int64), the number of the row in the file. Without this column, it is the number in the frame,
      from 1;
    - ``problem`` (String), the reason why the row cannot be read, if the reader of the file or message found
      one, else null. A row with a problem is quarantined;
    - ``problem_kind`` (String), the kind of that reason: one of `quarantine.KINDS`. Null, or no such column,
      means "row cannot be read";
    - ``offset`` (Int64), the offset of the row in its partition.

    Args:
        frame: the raw rows.
        time_format: the format of times in text and numbers; see `schemas.cells.times`.
        time_zone: the zone of times without a zone, such as ``Europe/Berlin``; "" for UTC. A local time that
            does not exist in the zone, or exists twice, is quarantined.

    Returns:
        Two frames. The first is the observation frame (`SCHEMA`) of the valid rows, in the order of the raw
        frame. The second holds the quarantined rows (`quarantine.SCHEMA`). Both frames have a column
        ``offset`` if the raw frame has one. The first also has the ``event_id`` and the covariates of the raw
        frame.

    Raises:
        DataError: one of the three required columns is absent.
    """
    absent = [name for name in SCHEMA if name not in frame.columns]
    if absent:
        raise DataError(
            f"the rows lack {', '.join(absent)}; their columns are: {', '.join(frame.columns) or 'none'}"
        )
    read = _read(frame, time_format, time_zone)
    covariates = tuple(covariates_of(read.columns))
    is_good = _is_good(read)
    offset = frame["offset"] if "offset" in frame.columns else None
    good = read if offset is None else read.hstack([offset])
    if is_good and "problem" not in frame.columns:
        return good, quarantine.empty(offset=offset is not None)
    fails = pl.DataFrame()
    if not is_good:
        fails = failing(read, _with_covariates(covariates) if covariates else _OBSERVATIONS)
    bad = pl.select(pl.repeat(False, frame.height, dtype=pl.Boolean)).to_series()
    for column in fails.iter_columns():
        bad = bad | column
    if "problem" in frame.columns:
        bad = bad | frame["problem"].is_not_null()
    if not bad.any():
        return good, quarantine.empty(offset=offset is not None)
    rejected = _quarantined(frame, read, fails, bad, time_format, time_zone)
    return good.filter(~bad), rejected if offset is None else rejected.with_columns(offset.filter(bad))


def _read(frame: pl.DataFrame, time_format: str = cells.AUTO, time_zone: str = "") -> pl.DataFrame:
    """Convert all rows of a raw frame, valid or not, to the columns of observations without ``offset``.

    A cell that cannot be parsed becomes null. In a covariate it becomes infinity (see `_covariate`).
    """
    columns = [
        cells.names(frame["series_id"]),
        cells.times(frame["timestamp"], time_format, time_zone),
        cells.numbers(frame["value"]),
    ]
    if "event_id" in frame.columns:
        columns.append(cells.names(frame["event_id"]))
    columns += [_covariate(frame[name]) for name in covariates_of(frame.columns)]
    return pl.DataFrame(columns)


def _is_good(read: pl.DataFrame) -> bool:
    """Return True if every cell of a frame passes the schema: `Observation` and the observed covariates.

    This function saves time: a call of pandera takes milliseconds even for a single row, and a stream
    validates few rows at a time. So `validate` calls pandera only if this function returns False.
    """
    if any(read[name].null_count() for name in read.columns if not name.startswith(OBSERVED)):
        return False
    return all(
        _are_visible(column) if column.dtype == pl.String else _is_in_range(column)
        for column in read.iter_columns()
    )


def _are_visible(names: pl.Series) -> bool:
    """Return True if every name contains a character that is not blank."""
    # Most columns pass the first check, which is faster than the regular expression: text that sorts from
    # "!" to "~" begins with a visible ASCII character.
    return _is_within(names, "!", "~") or bool(names.str.contains(r"\S").all())


def _is_in_range(column: pl.Series) -> bool:
    """Return True if all times or numbers of a column, except nulls, pass the schema."""
    if column.name == "timestamp":
        first_us, last_us = ((time - _EPOCH) // _MICROSECOND for time in (FIRST_TIME, LAST_TIME))
        return _is_within(column.cast(pl.Int64), first_us, last_us)
    # The smallest and the largest value leave NaN out, but the sum is NaN if any value is.
    return _is_within(column, -LARGEST, LARGEST) and not math.isnan(column.sum())


def _is_within(column: pl.Series, low: Any, high: Any) -> bool:
    """Return True if all values of a column, except nulls and NaN, are from ``low`` to ``high``."""
    least, most = column.min(), column.max()
    return least is None or (low <= least and most <= high)


def _covariate(given: pl.Series) -> pl.Series:
    """Convert a column of a covariate to Float64.

    A missing cell becomes null, which the schema accepts. A cell that is not a number becomes infinity, which
    the schema rejects, so that the row is quarantined.
    """
    number = cells.numbers(given).fill_nan(None)
    is_unreadable = cells.given(given) & cells.numbers(given).is_null()
    return number.set(is_unreadable, float("inf")) if is_unreadable.any() else number


def _quarantined(
    frame: pl.DataFrame,
    read: pl.DataFrame,
    fails: pl.DataFrame,
    bad: pl.Series,
    time_format: str,
    time_zone: str,
) -> pl.DataFrame:
    at = bad.arg_true()
    raw, read = frame[at], read[at]
    # If no cell fails the schema, ``fails`` has no columns and no rows: ``fails[at]`` would raise an error.
    fails = fails[at] if fails.width else fails
    made = {name: cells.shown(raw[name]) for name in read.columns}

    # A row is rejected if the reader reported a problem, or if a cell fails the schema.
    causes: list[Cause] = []
    work = pl.DataFrame(made)
    if has_problems := "problem" in raw.columns:
        kind = (
            raw["problem_kind"].cast(pl.String) if "problem_kind" in raw.columns else pl.lit(None, pl.String)
        )
        work = work.with_columns(raw["problem"].cast(pl.String), kind.alias("problem_kind"))
        causes.append(Cause(pl.col("problem").is_not_null(), "", faults_of_problem(_UNREADABLE)))
    for name in (n for n in read.columns if n in fails.columns):
        work = work.with_columns(
            fails[name].alias(f"{name} fails"),
            read[name].alias(f"{name} read"),
            cells.given(raw[name]).alias(f"{name} given"),
        )
        if name == "timestamp" and not is_utc(time_zone):
            work = work.with_columns(cells.times(raw[name], time_format).alias(LOCAL))
        fails_here = pl.col(f"{name} fails")
        # If the reader could not read a row, report only the reader's problem: the cells mean nothing.
        if has_problems:
            fails_here = fails_here & pl.col("problem").is_null()
        label = name.removeprefix(OBSERVED)
        covariate = None if label == name else label
        faults = faults_of(name, raw.schema[name], time_format, LARGEST, covariate, time_zone)
        causes.append(Cause(fails_here, label, faults))
    return rejected_rows(raw, at, work, list(made), causes)
