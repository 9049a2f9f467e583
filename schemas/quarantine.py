"""Schema of quarantined rows.

A quarantined row describes a row of the input that validation rejected: the file and the row number, the
first faulty column, the reason, the kind of the reason, and the rejected row as JSON text.
"""

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
    "local time does not exist",
    "local time exists twice",
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
"""The kinds of faults for which a row is rejected.

Jobs count rejected rows by kind. They do not count by reason, because a reason quotes the cell, so that there
can be as many reasons as rejected rows.
"""

OTHER: Final = "other"
"""The kind of a fault that no other kind in `KINDS` describes."""

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
    """One row of the input that validation rejected, or one file that cannot be read to its end.

    - ``file``: the name of the file as the user gave it; empty if the row is not from a file.
    - ``row``: the number of the row in the file, from 1, without the header. For a file, 0.
    - ``column``: the first faulty column; empty if the whole row or file is faulty.
    - ``reason``: all reasons, joined with "; ".
    - ``kind``: the kind of the first reason, one of `KINDS`.
    - ``raw``: the rejected row as compact JSON. For a file, empty.
    """

    file: pl.String
    row: pl.Int64 = pa.Field(ge=0)
    column: pl.String
    reason: pl.String = pa.Field(str_length={"min_value": 1})
    kind: pl.String = pa.Field(isin=KINDS)
    raw: pl.String

    class Config:
        """Pandera refuses a frame with other columns, such as ``offset``."""

        strict = True


# `empty` returns a clone of one of these frames: a clone takes a microsecond, a new frame a millisecond.
# Evaluate no Polars expression here: it would start the threads of Polars. A process that is forked later
# gets no copy of these threads, so an expression in that process would wait for them without end.
_EMPTY = pl.DataFrame(schema=SCHEMA)
_EMPTY_WITH_OFFSET = pl.DataFrame(schema=SCHEMA | {"offset": pl.Int64()})


def empty(offset: bool = False) -> pl.DataFrame:
    """Return an empty frame of quarantined rows. It has a column ``offset`` (Int64) if ``offset`` is True."""
    return (_EMPTY_WITH_OFFSET if offset else _EMPTY).clone()


def whole_file(file: str, reason: str, offset: int = 0) -> pl.DataFrame:
    """Return one quarantined row, which stands for a file that cannot be read to its end.

    Args:
        file: the name of the file.
        reason: the reason why the file cannot be read.
        offset: the position in the file, from 0, of the first row that cannot be read.
    """
    kind = "file cannot be read"
    row = {"file": file, "row": 0, "column": "", "reason": reason, "kind": kind, "raw": "", "offset": offset}
    return pl.DataFrame([row], schema=SCHEMA | {"offset": pl.Int64()})


def notice(rejected: pl.DataFrame, kept: str = "") -> list[str]:
    """Return a list with a message for the user about quarantined rows, or an empty list if there are none.

    Args:
        rejected: the quarantined rows; the message quotes the first.
        kept: the place where the rows are stored, as words for the message; empty if they are not stored.
    """
    if not len(rejected):
        return []
    first = rejected.row(0, named=True)
    line = f"{len(rejected):,} rows were quarantined, the first: {first['file']}, row {first['row']}: "
    return [line + first["reason"] + (f" (all of them: {kept})" if kept else "")]


def share_message(reasons: Mapping[str, int], rows: int, most: float) -> str | None:
    """Return a message if too large a share of the rows is quarantined, else None.

    Args:
        reasons: for each kind of fault (see `KINDS`), the number of rows that are quarantined for it.
        rows: the number of all rows, valid and quarantined.
        most: the largest share of quarantined rows that is allowed, the setting ``data.max_quarantined``.
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


def check_share(reasons: Mapping[str, int], rows: int, most: float, rejected: pl.DataFrame) -> None:
    """Raise an error if too many rows are quarantined.

    Args:
        reasons: as in `share_message`.
        rows: as in `share_message`.
        most: as in `share_message`.
        rejected: quarantined rows; some of them are enough, because the message quotes only the first.

    Raises:
        DataError: the share of quarantined rows is above ``most``. The message gives the most frequent
            kinds of faults and the reason of the first row of ``rejected``.
    """
    message = share_message(reasons, rows, most)
    if message is None:
        return
    rejected = rejected.filter(pl.col("row") > 0)
    first = (
        "; the first: {file}, row {row}: {reason}".format(**rejected.row(0, named=True))
        if len(rejected)
        else ""
    )
    raise DataError(f"{message}{first}; correct the rows, or raise data.max_quarantined (1 allows any share)")


_SHOWN = 3  # an error message lists at most this many kinds of faults
