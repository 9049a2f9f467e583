"""What an observation is, and the one check that every row passes: ``validate``."""

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

``event_id: String`` follows where the job names one, ``observed.NAME: Float64`` for each covariate that is
observed beside the value (null where missing), ``offset: Int64`` where rows have a place in a log.
"""

OBSERVED = "observed."
"""What the columns of observed covariates begin with, so that a covariate may have any name."""

LARGEST = 1e100
"""Largest absolute value of an observation: the square of a difference overflows a float64 from 1e154 on, and
sums of many rows need room as well."""

_UNREADABLE = "row cannot be read"
_FIRST = datetime(1678, 1, 1, tzinfo=UTC)
_LAST = datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


class Observation(pa.DataFrameModel):
    """One value of one series at one time.

    Times are UTC and lie in the years 1678 to 2261, which nanosecond tools can hold as well; values lie
    within ±`LARGEST`. Rows that agree in series, time and (if there is one) event are duplicates of one
    another.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        in_range={"min_value": _FIRST, "max_value": _LAST}
    )
    value: pl.Float64 = pa.Field(in_range={"min_value": -LARGEST, "max_value": LARGEST})
    event_id: Optional[pl.String] = pa.Field(str_contains=r"\S")  # noqa: UP045 - pandera reads Optional

    class Config:
        """Exactly these columns, in this order."""

        strict = True
        ordered = True


_OBSERVATIONS = Observation.to_schema()  # built once: pandera would build one per thread


@lru_cache(maxsize=64)
def _with_covariates(names: tuple[str, ...]) -> pa.DataFrameSchema:
    within = pa.Check.in_range(-LARGEST, LARGEST)
    return _OBSERVATIONS.add_columns({n: pa.Column(pl.Float64(), within, nullable=True) for n in names})


def covariates_of(columns: Iterable[str]) -> list[str]:
    """Those of the columns that hold observed covariates, in their order."""
    return [name for name in columns if name.startswith(OBSERVED)]


def more_of(columns: Iterable[str]) -> list[str]:
    """What a row has beside `SCHEMA`, place in a log aside: ``event_id`` and covariates, in their order."""
    return [name for name in columns if name == "event_id" or name.startswith(OBSERVED)]


def empty(event_id: bool = False, offset: bool = False) -> pl.DataFrame:
    """An observation frame without rows."""
    more: dict[str, pl.DataType] = {"event_id": pl.String()} if event_id else {}
    return pl.DataFrame(schema=SCHEMA | more | ({"offset": pl.Int64()} if offset else {}))


def lacks_zone(frame: pl.DataFrame) -> bool:
    """Whether any time of a raw frame has no zone, so that ``validate`` takes it as UTC."""
    return cells.lacks_zone(frame["timestamp"])


def validate(frame: pl.DataFrame, time_format: str = cells.AUTO) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Part a raw frame into good rows and quarantined rows; every row ends in exactly one of the two.

    Args:
        frame: ``series_id``, ``timestamp`` and ``value`` of any type, ``event_id`` where rows have one, and
            ``observed.NAME`` for each covariate, whose empty cells and NaN are missing and no fault;
            ``file`` and ``row`` say where a row stood (else "" and its position from 1); ``problem`` may
            hold a reader's own reason (String, null for none) why a row cannot be read at all, and
            ``problem_kind`` the kind of that reason (one of `quarantine.KINDS`; "row cannot be read" by
            default); ``offset`` (Int64) is a row's place in a log, which it keeps.
        time_format: what text and numbers mean as times; see `schemas.cells.times`.

    Returns:
        The observation frame of the good rows (exactly ``series_id``, ``timestamp``, ``value`` and, if
        given, ``event_id``, covariates and ``offset``; input order), and the quarantined rows
        (``schemas.quarantine``, and ``offset`` if given).

    Raises:
        DataError: One of the three columns is absent.
    """
    absent = [name for name in SCHEMA if name not in frame.columns]
    if absent:
        raise DataError(f"rows without {', '.join(absent)}: there is {', '.join(frame.columns) or 'nothing'}")
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
    """The cells as the types of an observation; null where a cell does not parse."""
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
    """Whether the schema lets every cell of a column pass, which most do.

    To ask pandera takes milliseconds, however few the rows are, and a stream comes a few rows at a time.
    """
    if column.name.startswith(OBSERVED):
        return bool((column.drop_nulls().abs() <= LARGEST).all())  # NaN is above all numbers
    if column.null_count():
        return False
    if column.name == "timestamp":
        return bool(column.is_between(_FIRST, _LAST).all())
    if column.name == "value":
        return bool((column.abs() <= LARGEST).all())
    return bool(column.str.contains(r"\S").all())


def _covariate(given: pl.Series) -> pl.Series:
    """Numbers, null where missing; infinite where a cell is no number, which the schema does not let pass."""
    number = cells.numbers(given).fill_nan(None)
    is_unreadable = cells.given(given) & cells.numbers(given).is_null()
    return number.set(is_unreadable, float("inf")) if is_unreadable.any() else number


def _quarantined(
    frame: pl.DataFrame, read: pl.DataFrame, fails: pl.DataFrame, bad: pl.Series, time_format: str
) -> pl.DataFrame:
    at = bad.arg_true()
    raw, read = frame[at], read[at]
    fails = fails[at] if fails.width else fails  # a frame without columns has no rows to take
    height = raw.height
    made = {name: cells.shown(raw[name]) for name in read.columns}

    blamed: list[tuple[pl.Expr, str, list[Fault]]] = []
    work = pl.DataFrame(made)
    if has_problems := "problem" in raw.columns:
        kind = (
            raw["problem_kind"].cast(pl.String) if "problem_kind" in raw.columns else pl.lit(None, pl.String)
        )
        work = work.with_columns(raw["problem"].cast(pl.String), kind.alias("problem_kind"))
        blamed.append((pl.col("problem").is_not_null(), "", faults_of_problem(_UNREADABLE)))
    for name in (n for n in read.columns if n in fails.columns):
        work = work.with_columns(
            fails[name].alias(f"{name} fails"),
            read[name].alias(f"{name} read"),
            cells.given(raw[name]).alias(f"{name} given"),
        )
        fails_here = pl.col(f"{name} fails")
        # a row that could not be taken apart has no cells to blame
        if has_problems:
            fails_here = fails_here & pl.col("problem").is_null()
        label = name.removeprefix(OBSERVED)
        covariate = None if label == name else label
        blamed.append((fails_here, label, faults_of(name, raw.schema[name], time_format, LARGEST, covariate)))
    sentences = [pl.when(is_bad).then(first(faults, "sentence")) for is_bad, _, faults in blamed]
    kinds = [pl.when(is_bad).then(first(faults, "kind")) for is_bad, _, faults in blamed]
    return work.select(
        (raw["file"] if "file" in raw.columns else pl.repeat("", height)).cast(pl.String).alias("file"),
        (raw["row"] if "row" in raw.columns else at + 1).cast(pl.Int64).alias("row"),
        pl.coalesce(pl.when(is_bad).then(pl.lit(column)) for is_bad, column, _ in blamed).alias("column"),
        pl.concat_str(sentences, separator="; ", ignore_nulls=True).alias("reason"),
        pl.coalesce(kinds).alias("kind"),
        pl.struct(list(made)).struct.json_encode().alias("raw"),
    )
