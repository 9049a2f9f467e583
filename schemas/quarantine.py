"""A rejected row: where it stood, which column is wrong, why, and what it held."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

SCHEMA: dict[str, pl.DataType] = {
    "file": pl.String(),
    "row": pl.Int64(),
    "column": pl.String(),
    "reason": pl.String(),
    "raw": pl.String(),
}
"""Columns and types of a frame of quarantined rows."""


class QuarantinedRow(pa.DataFrameModel):
    """One rejected input row.

    ``file`` as it was given, empty where rows did not come from one; ``row`` counts data rows from 1, and 0
    is the file as a whole, which cannot be read; ``column`` is the first that fails, empty where the row or
    the file as a whole does; ``reason`` joins all reasons with "; "; ``raw`` is the row's text as compact
    JSON, empty for a file.
    """

    file: pl.String
    row: pl.Int64 = pa.Field(ge=0)
    column: pl.String
    reason: pl.String = pa.Field(str_length={"min_value": 1})
    raw: pl.String

    class Config:
        """Exactly these columns."""

        strict = True


def empty(offset: bool = False) -> pl.DataFrame:
    """A frame of no quarantined rows; with ``offset`` (Int64) where rows have a place in a log."""
    return pl.DataFrame(schema=SCHEMA | ({"offset": pl.Int64()} if offset else {}))


def whole_file(file: str, reason: str, offset: int = 0) -> pl.DataFrame:
    """The one row, with its ``offset``, of a file that cannot be read."""
    cells = {"file": [file], "row": [0], "column": [""], "reason": [reason], "raw": [""], "offset": [offset]}
    return pl.DataFrame(cells, schema=SCHEMA | {"offset": pl.Int64()})
