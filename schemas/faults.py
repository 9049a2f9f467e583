"""What may be wrong with a cell of an observation: its kind, and a sentence that shows the cell."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from schemas import cells, quarantine
from schemas.time_formats import looks_like

_PLAIN_TYPES = (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum)
"""Types of which people need not be told when a cell of them cannot be read."""


class Fault(NamedTuple):
    """What may be wrong with a cell.

    Attributes:
        found: Boolean, whether it is.
        kind: one of `quarantine.KINDS`.
        sentence: what is wrong, with the cell.
    """

    found: pl.Expr
    kind: pl.Expr
    sentence: pl.Expr


def first(faults: list[Fault], part: Literal["kind", "sentence"]) -> pl.Expr:
    """The kind or the sentence of the first fault that is found."""
    return pl.coalesce(pl.when(fault.found).then(getattr(fault, part)) for fault in faults)


def faults_of_problem(default: str) -> list[Fault]:
    """The fault that a reader found, in the columns ``problem`` and ``problem_kind``.

    Args:
        default: the kind where the reader gave none; a kind that is not known is "other".
    """
    kind = pl.col("problem_kind").fill_null(default)
    known = pl.when(kind.is_in(quarantine.KINDS)).then(kind).otherwise(pl.lit(quarantine.OTHER))
    return [Fault(pl.lit(True), known, pl.col("problem"))]


def faults_of(
    name: str, dtype: pl.DataType, time_format: str, largest: float, covariate: str | None
) -> list[Fault]:
    """What may be wrong with a cell of this column, by the given and the read cell; the last always holds.

    Args:
        name: the column, beside which ``NAME read`` and ``NAME given`` are there.
        dtype: type of the given column.
        time_format: what text and numbers mean as times; see `schemas.cells.times`.
        largest: largest absolute value of a number.
        covariate: name of the covariate that the column holds; None for other columns.
    """
    read, unread = pl.col(f"{name} read"), pl.col(f"{name} given") & pl.col(f"{name} read").is_null()
    label = covariate or name
    kind = "" if dtype.is_numeric() or dtype in _PLAIN_TYPES else f" (column {label} is {dtype})"
    cell = pl.format("'{}'", pl.col(name).str.strip_chars().str.head(40).fill_null("?"))
    beyond = f"{label} is beyond {largest:g}: its square leaves no room in a float64"
    if covariate is not None:
        no_number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False).is_null()
        said = pl.lit(f"{label} ") + cell + f" is not a number{kind}"
        return [
            _fault(no_number, "covariate is not a number", said),
            _fault(read.is_infinite(), "covariate is infinite", f"{label} is infinite"),
            _fault(True, "covariate is too large", beyond),
        ]
    if name == "value":
        return [
            _fault(unread, "is not a number", cell + f" is not a number{kind}"),
            _fault(read.is_null(), "value is missing"),
            _fault(read.is_nan(), "value is NaN"),
            _fault(read.is_infinite(), "value is infinite"),
            _fault(True, "value is too large", beyond),
        ]
    if name == "timestamp":
        number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
        looks = looks_like(number) if time_format == cells.AUTO else pl.lit(None, pl.String)
        asked = "" if time_format == cells.AUTO else f" by data.time_format = {time_format!r}"
        outside = "is outside the years 1678 to 2261"
        return [
            _fault(unread & looks.is_not_null(), "is a number that may be no time", cell + " " + looks),
            _fault(unread, "is not a time", cell + f" is not a time{asked}{kind}"),
            _fault(read.is_null(), "time is missing"),
            _fault(True, outside, cell + f" {outside}"),
        ]
    return [
        _fault(unread, "is no text", cell + f" is no text{kind}"),
        _fault(True, f"{name} is missing"),
    ]


def _fault(found: pl.Expr | bool, kind: str, sentence: pl.Expr | str | None = None) -> Fault:
    """A fault whose sentence is its kind unless it is given."""
    assert kind in quarantine.KINDS
    said = kind if sentence is None else sentence
    return Fault(
        pl.lit(found) if isinstance(found, bool) else found,
        pl.lit(kind),
        pl.lit(said) if isinstance(said, str) else said,
    )
