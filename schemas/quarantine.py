"""A rejected row: where it stood, which column is wrong, why, and what it held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandera.polars as pa
import polars as pl

from schemas.errors import DataError

KINDS: Final = (
    "series_id is missing",
    "event_id is missing",
    "time is missing",
    "is not a time",
    "is a number that may be no time",
    "is outside the years 1678 to 2261",
    "is in the future",
    "value is missing",
    "value is NaN",
    "value is infinite",
    "value is too large",
    "is not a number",
    "is no text",
    "covariate is not a number",
    "covariate is infinite",
    "covariate is too large",
    "split is no known part",
    "file cannot be read",
    "row cannot be read",
    "message is empty",
    "message cannot be decoded",
    "schema is unknown",
    "other",
)
"""Every kind of fault that a row is rejected for. Jobs count rejected rows by kind, never by their text."""

OTHER: Final = "other"
"""The kind of a fault that has none of its own."""

SCHEMA: dict[str, pl.DataType] = {
    "file": pl.String(),
    "row": pl.Int64(),
    "column": pl.String(),
    "reason": pl.String(),
    "kind": pl.String(),
    "raw": pl.String(),
}
"""Columns and types of a frame of quarantined rows."""


class QuarantinedRow(pa.DataFrameModel):
    """One rejected input row.

    ``file`` as it was given, empty where rows did not come from one; ``row`` counts data rows from 1, and 0
    is the file as a whole, which cannot be read; ``column`` is the first that fails, empty where the row or
    the file as a whole does; ``reason`` joins all reasons with "; "; ``kind`` is the kind of the first of
    them, one of `KINDS`; ``raw`` is the row's text as compact JSON, empty for a file.
    """

    file: pl.String
    row: pl.Int64 = pa.Field(ge=0)
    column: pl.String
    reason: pl.String = pa.Field(str_length={"min_value": 1})
    kind: pl.String = pa.Field(isin=KINDS)
    raw: pl.String

    class Config:
        """Exactly these columns."""

        strict = True


def empty(offset: bool = False) -> pl.DataFrame:
    """A frame of no quarantined rows; with ``offset`` (Int64) where rows have a place in a log."""
    return pl.DataFrame(schema=SCHEMA | ({"offset": pl.Int64()} if offset else {}))


def whole_file(file: str, reason: str, offset: int = 0) -> pl.DataFrame:
    """The one row, with its ``offset``, of a file that cannot be read."""
    kind = "file cannot be read"
    row = {"file": file, "row": 0, "column": "", "reason": reason, "kind": kind, "raw": "", "offset": offset}
    return pl.DataFrame([row], schema=SCHEMA | {"offset": pl.Int64()})


def share_told(reasons: Mapping[str, int], rows: int, most: float) -> str | None:
    """A statement that more than a share of the rows is quarantined; None where it is not.

    Args:
        reasons: number of quarantined rows by reason.
        rows: number of all rows.
        most: the share, ``data.max_quarantined``.
    """
    count = sum(reasons.values())
    if not count or count <= most * rows:
        return None
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    why = ", ".join(f"{n:,} {reason}" for reason, n in ordered[:_SHOWN])
    more = f" and {len(ordered) - _SHOWN} more reasons" if len(ordered) > _SHOWN else ""
    return (
        f"{count:,} of {rows:,} rows ({count / rows:.0%}) are quarantined, and data.max_quarantined = "
        f"{most:g} allows {most:.0%}: {why}{more}"
    )


def refuse_share(reasons: Mapping[str, int], rows: int, most: float, rejected: pl.DataFrame) -> None:
    """Refuses input of which more than a share is quarantined.

    Args:
        reasons: as in `share_told`.
        rows: as in `share_told`.
        most: as in `share_told`.
        rejected: the quarantined rows, or some of them.

    Raises:
        DataError: it is so; one line with the reasons and the first row.
    """
    told = share_told(reasons, rows, most)
    if told is None:
        return
    rejected = rejected.filter(pl.col("row") > 0)
    first = (
        "; the first: {file}, row {row}: {reason}".format(**rejected.row(0, named=True))
        if len(rejected)
        else ""
    )
    raise DataError(f"{told}{first}; correct the rows, or raise data.max_quarantined (1 takes any share)")


_SHOWN = 3
