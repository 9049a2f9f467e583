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

    ``file`` as it was given, empty where rows did not come from one; ``row`` counts data rows from 1;
    ``column`` is the first that fails, empty where the row as a whole does; ``reason`` joins all
    reasons with "; "; ``raw`` is the row's text as compact JSON.
    """

    file: pl.String
    row: pl.Int64 = pa.Field(ge=1)
    column: pl.String
    reason: pl.String = pa.Field(str_length={"min_value": 1})
    raw: pl.String

    class Config:
        """Exactly these columns."""

        strict = True


def empty() -> pl.DataFrame:
    """A frame of no quarantined rows."""
    return pl.DataFrame(schema=SCHEMA)
