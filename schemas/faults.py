"""The faults for which rows are rejected, and the quarantined rows that report these faults.

Each fault has a kind, which jobs count, and a sentence for the user, which may quote the cell.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from schemas import cells, quarantine
from schemas.time_formats import looks_like
from schemas.time_zones import is_repeated, is_skipped, is_utc

_PLAIN_TYPES = (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum)
"""Common column types. If a column has another type, the sentences about its cells name that type."""

LOCAL = "timestamp local"
"""Column of the times as local times, which `faults_of` needs if a job sets a time zone."""


class Fault(NamedTuple):
    """A fault that a cell can have: how to find its rows, its kind and its sentence for the user.

    The attributes are Polars expressions, which compute one result for each row.

    Attributes:
        found: Boolean, True for the rows whose cell has the fault. The last fault of a list is used
            for the rows that have no earlier fault, so its ``found`` may be True for every row.
        kind: the kind of the fault, one of `quarantine.KINDS`.
        sentence: the text for the user, which describes the fault and may quote the cell.
    """

    found: pl.Expr
    kind: pl.Expr
    sentence: pl.Expr


def first(faults: list[Fault], part: Literal["kind", "sentence"]) -> pl.Expr:
    """Return a Polars expression that computes, for each row, the kind or the sentence of its first fault.

    Args:
        faults: the possible faults, in the order in which they are checked.
        part: "kind" or "sentence".
    """
    return pl.coalesce(pl.when(fault.found).then(getattr(fault, part)) for fault in faults)


class Cause(NamedTuple):
    """A cause for which rows are rejected: how to find the rows, the faulty column and the possible faults.

    Attributes:
        found: Boolean expression, True for the rows that are rejected for this cause.
        column: the name of the faulty column, or "" if the whole row is faulty.
        faults: the faults that these rows can have.
    """

    found: pl.Expr
    column: str
    faults: list[Fault]


def rejected_rows(
    raw: pl.DataFrame, at: pl.Series, work: pl.DataFrame, shown: list[str], causes: list[Cause]
) -> pl.DataFrame:
    """Convert rejected raw rows to quarantined rows (`quarantine.SCHEMA`).

    The column and the kind of a row belong to its first cause; its reason joins the sentences of all causes.

    Args:
        raw: the rejected rows as the reader returned them. A row without the columns ``file`` and ``row``
            gets an empty file and its number in the input.
        at: the index of each of these rows in the input.
        work: the columns that the expressions of ``causes`` need, one row for each row of ``raw``.
        shown: the names of the columns of ``work`` that are kept as JSON, the raw cells as text.
        causes: the possible causes. Each row must have at least one of them.
    """
    columns = (pl.when(cause.found).then(pl.lit(cause.column)) for cause in causes)
    reasons = (pl.when(cause.found).then(first(cause.faults, "sentence")) for cause in causes)
    kinds = (pl.when(cause.found).then(first(cause.faults, "kind")) for cause in causes)
    return work.select(
        (raw["file"] if "file" in raw.columns else pl.repeat("", raw.height)).cast(pl.String).alias("file"),
        (raw["row"] if "row" in raw.columns else at + 1).cast(pl.Int64).alias("row"),
        pl.coalesce(columns).alias("column"),
        pl.concat_str(list(reasons), separator="; ", ignore_nulls=True).alias("reason"),
        pl.coalesce(kinds).alias("kind"),
        pl.struct(shown).struct.json_encode().alias("raw"),
    )


def faults_of_problem(default: str) -> list[Fault]:
    """Return a list with one fault for the rows that could not be read: its sentence is their ``problem``.

    The ``found`` of the fault is True for every row, so use the fault only for rows with a problem. The
    column ``problem`` of a row holds the sentence of the fault, and the column ``problem_kind`` holds its
    kind. A kind that is not in `quarantine.KINDS` is replaced by "other".

    Args:
        default: the kind of the fault if ``problem_kind`` is null.
    """
    kind = pl.col("problem_kind").fill_null(default)
    known = pl.when(kind.is_in(quarantine.KINDS)).then(kind).otherwise(pl.lit(quarantine.OTHER))
    return [Fault(pl.lit(True), known, pl.col("problem"))]


def faults_of(
    name: str,
    dtype: pl.DataType,
    time_format: str,
    largest: float,
    covariate: str | None,
    time_zone: str = "",
) -> list[Fault]:
    """Return the faults that the cells of a column can have, in the order in which they are checked.

    Use these faults only for cells that fail the schema. The ``found`` of the last fault is always True: a
    cell that fails the schema and has no other fault must have the last one.

    The expressions need a frame with three columns: ``NAME``, the raw cells as text; ``NAME read``, the
    parsed cells; and ``NAME given``, which is True for cells that are not missing. With a time zone, they
    also need the column `LOCAL` beside ``timestamp``.

    Args:
        name: the name of the column, ``NAME`` above.
        dtype: the type of the column in the input.
        time_format: the format of times in text and numbers; see `schemas.cells.times`.
        largest: the largest valid absolute value of a number.
        covariate: the name of the covariate if the column holds a covariate, else None.
        time_zone: the zone of times without a zone; "" for UTC.
    """
    read, unread = pl.col(f"{name} read"), pl.col(f"{name} given") & pl.col(f"{name} read").is_null()
    label = covariate or name
    kind = "" if dtype.is_numeric() or dtype in _PLAIN_TYPES else f" (column {label} is {dtype})"
    cell = pl.format("'{}'", pl.col(name).str.strip_chars().str.head(40).fill_null("?"))
    beyond = f"{label} is beyond {largest:g}: its square leaves no room in a float64"
    if covariate is not None:
        no_number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False).is_null()
        sentence = pl.lit(f"{label} ") + cell + f" is not a number{kind}"
        return [
            fault(no_number, "covariate is not a number", sentence),
            fault(read.is_infinite(), "covariate is infinite", f"{label} is infinite"),
            fault(True, "covariate is too large", beyond),
        ]
    if name == "value":
        return [
            fault(unread, "is not a number", cell + f" is not a number{kind}"),
            fault(read.is_null(), "value is missing"),
            fault(read.is_nan(), "value is NaN"),
            fault(read.is_infinite(), "value is infinite"),
            fault(True, "value is too large", beyond),
        ]
    if name == "timestamp":
        number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
        looks = looks_like(number) if time_format == cells.AUTO else pl.lit(None, pl.String)
        by_format = "" if time_format == cells.AUTO else f" by data.time_format = {time_format!r}"
        outside = "is outside the years 1678 to 2261"
        return [
            *([] if is_utc(time_zone) else _faults_of_zone(cell, unread, time_zone)),
            fault(unread & looks.is_not_null(), "is a number that may be no time", cell + " " + looks),
            fault(unread, "is not a time", cell + f" is not a time{by_format}{kind}"),
            fault(read.is_null(), "time is missing"),
            fault(True, outside, cell + f" {outside}"),
        ]
    return [
        fault(unread, "is no text", cell + f" is no text{kind}"),
        fault(True, f"{name} is missing"),
    ]


def _faults_of_zone(cell: pl.Expr, unread: pl.Expr, zone: str) -> list[Fault]:
    local, fix = pl.col(LOCAL), "write times with their offset from UTC, such as +01:00"
    return [
        fault(
            unread & is_skipped(local, zone),
            "local time does not exist",
            cell + f" does not exist in {zone}, where clocks are set forward: {fix}",
        ),
        fault(
            unread & is_repeated(local, zone),
            "local time exists twice",
            cell + f" exists twice in {zone}, where clocks are set back: {fix}",
        ),
    ]


def fault(found: pl.Expr | bool, kind: str, sentence: pl.Expr | str | None = None) -> Fault:
    """Return a `Fault` of Polars expressions; each Boolean or text argument becomes a Polars literal.

    Without a ``sentence``, the sentence of the fault is its kind.
    """
    assert kind in quarantine.KINDS
    text = kind if sentence is None else sentence
    return Fault(
        pl.lit(found) if isinstance(found, bool) else found,
        pl.lit(kind),
        pl.lit(text) if isinstance(text, str) else text,
    )
