"""Schema of late rows: observations that were read after their window had closed."""

from __future__ import annotations

from typing import Annotated, Optional

import pandera.polars as pa
import polars as pl

from schemas import observations

SCHEMA: dict[str, pl.DataType] = {
    **observations.SCHEMA,
    "late_s": pl.Float64(),
    "partition": pl.String(),
    "offset": pl.Int64(),
}
"""Columns and types of a frame of late rows; ``event_id: String`` follows if rows have one."""


class LateRow(pa.DataFrameModel):
    """One observation that was read after its window had closed.

    ``late_s`` is the number of seconds from the timestamp of the row to the watermark that had closed the
    window. The row is in the partition ``partition`` of the input, at ``offset``.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    timestamp: Annotated[pl.Datetime, "us", "UTC"]
    value: pl.Float64
    late_s: pl.Float64 = pa.Field(gt=0)
    partition: pl.String
    offset: pl.Int64 = pa.Field(ge=0)
    event_id: Optional[pl.String]  # noqa: UP045 - pandera reads Optional

    class Config:
        """A frame of late rows has these columns and no others; only ``event_id`` may be absent."""

        strict = True


def empty() -> pl.DataFrame:
    """Return an empty frame of late rows."""
    return pl.DataFrame(schema=SCHEMA)
