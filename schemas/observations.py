"""Schema of observations, and ``validate``, which checks every row of the input."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Optional

import pandera.polars as pa
import polars as pl

from schemas import cells, quarantine
from schemas.checking import failing
from schemas.errors import DataError
from schemas.faults import Fault, faults_of, faults_of_problem, first

SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
}
"""Columns and types of an observation frame.

Further columns may follow: ``event_id: String`` if the job names such a column, ``observed.NAME: Float64``
for each observed covariate (null if missing), and ``offset: Int64`` if rows have offsets in a partition.
"""

OBSERVED = "observed."
"""Prefix of the columns of observed covariates, so that a covariate may have the name of any other column."""

LARGEST = 1e100
"""Largest absolute value of an observation. The limit is far below 1e154, where the square of a difference
overflows a float64, because sums of many rows need room as well."""

_UNREADABLE = "row cannot be read"
FIRST_TIME = datetime(1678, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
"""Times of observations lie from `FIRST_TIME` to `LAST_TIME`; tools with nanoseconds can represent them."""


class Observation(pa.DataFrameModel):
    """One value of one series at one time.

    Times are in UTC and between the years 1678 and 2261, which tools with nanoseconds can also represent;
    values are within ±`LARGEST`. Rows with the same series, time and event (if rows have one) are duplicates.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        in_range={"min_value": FIRST_TIME, "max_value": LAST_TIME}
    )
    value: pl.Float64 = pa.Field(in_range={"min_value": -LARGEST, "max_value": LARGEST})
    event_id: Optional[pl.String] = pa.Field(str_contains=r"\S")  # noqa: UP045 - pandera reads Optional

    class Config:
        """Exactly these columns, in this order."""

        strict = True
        ordered = True


_OBSERVATIONS = (
    Observation.to_schema()
)  # the schema is built once here, because pandera builds a schema again in each thread


@lru_cache(maxsize=64)
def _with_covariates(names: tuple[str, ...]) -> pa.DataFrameSchema:
    within = pa.Check.in_range(-LARGEST, LARGEST)
    return _OBSERVATIONS.add_columns({n: pa.Column(pl.Float64(), within, nullable=True) for n in names})


def covariates_of(columns: Iterable[str]) -> list[str]:
    """Return the columns of observed covariates among ``columns``, in the order of ``columns``."""
    return [name for name in columns if name.startswith(OBSERVED)]


def optional_columns(columns: Iterable[str]) -> list[str]:
    """Return the optional columns (``event_id``, observed covariates) among ``columns``, in their order."""
    return [name for name in columns if name == "event_id" or name.startswith(OBSERVED)]


def empty(event_id: bool = False, offset: bool = False) -> pl.DataFrame:
    """Return an empty observation frame."""
    more: dict[str, pl.DataType] = {"event_id": pl.String()} if event_id else {}
    return pl.DataFrame(schema=SCHEMA | more | ({"offset": pl.Int64()} if offset else {}))


def lacks_zone(frame: pl.DataFrame) -> bool:
    """Return True if any time of a raw frame has no zone, so that ``validate`` takes it as UTC."""
    return cells.lacks_zone(frame["timestamp"])


def validate(frame: pl.DataFrame, time_format: str = cells.AUTO) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a raw frame into good rows and quarantined rows; every row is in exactly one of the two.

    Args:
        frame: the raw rows. ``series_id``, ``timestamp`` and ``value`` are required, of any type. Optional
            columns are ``event_id``; ``observed.NAME`` for each observed covariate, in which an empty cell or
            NaN is a missing value and no fault; ``file`` and ``row``, the place of the row in the input (""
            and its position from 1 by default); ``problem`` (String), a reason of the reader why the row
            cannot be read, or null; ``problem_kind``, the kind of that reason (one of `quarantine.KINDS`,
            "row cannot be read" by default); and ``offset`` (Int64), the row's offset in its partition.
        time_format: the format of times in text and numbers; see `schemas.cells.times`.

    Returns:
        The observation frame of the good rows (``series_id``, ``timestamp``, ``value`` and, if given,
        ``event_id``, covariates and ``offset``; in input order), and the quarantined rows
        (``schemas.quarantine``, and ``offset`` if given).

    Raises:
        DataError: one of the three required columns is absent.
    """
    absent = [name for name in SCHEMA if name not in frame.columns]
    if absent:
        raise DataError(
            f"the rows lack {', '.join(absent)}; their columns are: {', '.join(frame.columns) or 'none'}"
        )
    read = _read(frame, time_format)
    covariates = tuple(covariates_of(read.columns))
    fails = pl.DataFrame()
    if not all(map(_is_good, read.get_columns())):
        fails = failing(read, _with_covariates(covariates) if covariates else _OBSERVATIONS)
    bad = pl.select(pl.repeat(False, frame.height, dtype=pl.Boolean)).to_series()
    for column in fails.iter_columns():
        bad = bad | column
    if "problem" in frame.columns:
        bad = bad | frame["problem"].is_not_null()
    offset = frame["offset"] if "offset" in frame.columns else None
    good = read if offset is None else read.with_columns(offset)
    if not bad.any():
        return good, quarantine.empty(offset=offset is not None)
    rejected = _quarantined(frame, read, fails, bad, time_format)
    return good.filter(~bad), rejected if offset is None else rejected.with_columns(offset.filter(bad))


def _read(frame: pl.DataFrame, time_format: str = cells.AUTO) -> pl.DataFrame:
    """Return the cells with the types of an observation; a cell that cannot be parsed becomes null."""
    columns = [
        cells.names(frame["series_id"]),
        cells.times(frame["timestamp"], time_format),
        cells.numbers(frame["value"]),
    ]
    if "event_id" in frame.columns:
        columns.append(cells.names(frame["event_id"]))
    columns += [_covariate(frame[name]) for name in covariates_of(frame.columns)]
    return pl.DataFrame(columns)


def _is_good(column: pl.Series) -> bool:
    """Return True if every cell of a column passes the schema.

    This check is fast. Pandera takes milliseconds for any number of rows, and a stream validates few rows at
    a time, so pandera is called only if this check fails.
    """
    if column.name.startswith(OBSERVED):
        return bool(
            (column.drop_nulls().abs() <= LARGEST).all()
        )  # NaN fails, because Polars orders it above all numbers
    if column.null_count():
        return False
    if column.name == "timestamp":
        return bool(column.is_between(FIRST_TIME, LAST_TIME).all())
    if column.name == "value":
        return bool((column.abs() <= LARGEST).all())
    return bool(column.str.contains(r"\S").all())


def _covariate(given: pl.Series) -> pl.Series:
    """Return a covariate as Float64: null if a cell is missing, infinity if a cell cannot be read.

    The schema accepts null and rejects infinity.
    """
    number = cells.numbers(given).fill_nan(None)
    is_unreadable = cells.given(given) & cells.numbers(given).is_null()
    return number.set(is_unreadable, float("inf")) if is_unreadable.any() else number


def _quarantined(
    frame: pl.DataFrame, read: pl.DataFrame, fails: pl.DataFrame, bad: pl.Series, time_format: str
) -> pl.DataFrame:
    at = bad.arg_true()
    raw, read = frame[at], read[at]
    # If no cell fails, ``fails`` has no columns and no rows, so that ``fails[at]`` would raise an error.
    fails = fails[at] if fails.width else fails
    height = raw.height
    made = {name: cells.shown(raw[name]) for name in read.columns}

    # Each cause of a rejection has an expression (True for rows with this cause), a column, and its faults.
    causes: list[tuple[pl.Expr, str, list[Fault]]] = []
    work = pl.DataFrame(made)
    if has_problems := "problem" in raw.columns:
        kind = (
            raw["problem_kind"].cast(pl.String) if "problem_kind" in raw.columns else pl.lit(None, pl.String)
        )
        work = work.with_columns(raw["problem"].cast(pl.String), kind.alias("problem_kind"))
        causes.append((pl.col("problem").is_not_null(), "", faults_of_problem(_UNREADABLE)))
    for name in (n for n in read.columns if n in fails.columns):
        work = work.with_columns(
            fails[name].alias(f"{name} fails"),
            read[name].alias(f"{name} read"),
            cells.given(raw[name]).alias(f"{name} given"),
        )
        fails_here = pl.col(f"{name} fails")
        # Do not report faults of single cells of a row that could not be split into cells.
        if has_problems:
            fails_here = fails_here & pl.col("problem").is_null()
        label = name.removeprefix(OBSERVED)
        covariate = None if label == name else label
        causes.append((fails_here, label, faults_of(name, raw.schema[name], time_format, LARGEST, covariate)))
    sentences = [pl.when(is_bad).then(first(faults, "sentence")) for is_bad, _, faults in causes]
    kinds = [pl.when(is_bad).then(first(faults, "kind")) for is_bad, _, faults in causes]
    return work.select(
        (raw["file"] if "file" in raw.columns else pl.repeat("", height)).cast(pl.String).alias("file"),
        (raw["row"] if "row" in raw.columns else at + 1).cast(pl.Int64).alias("row"),
        pl.coalesce(pl.when(is_bad).then(pl.lit(column)) for is_bad, column, _ in causes).alias("column"),
        pl.concat_str(sentences, separator="; ", ignore_nulls=True).alias("reason"),
        pl.coalesce(kinds).alias("kind"),
        pl.struct(list(made)).struct.json_encode().alias("raw"),
    )
