"""Schema of late rows: observations that arrived after their window had closed."""

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
    """One observation that arrived after its window had closed.

    ``late_s`` is the time in seconds from the row's timestamp to the watermark that had closed its window;
    ``partition`` and ``offset`` give the place of the row in the input of the job.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    timestamp: Annotated[pl.Datetime, "us", "UTC"]
    value: pl.Float64
    late_s: pl.Float64 = pa.Field(gt=0)
    partition: pl.String
    offset: pl.Int64 = pa.Field(ge=0)
    event_id: Optional[pl.String]  # noqa: UP045 - pandera reads Optional

    class Config:
        """Exactly these columns."""

        strict = True


def empty() -> pl.DataFrame:
    """Return an empty frame of late rows."""
    return pl.DataFrame(schema=SCHEMA)
