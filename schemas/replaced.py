"""A replaced row: an observation that a later row of the same series and time took the place of."""

from __future__ import annotations

import polars as pl

SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "replaced_by": pl.Float64(),
}
"""Columns and types of a frame of replaced rows.

``replaced_by`` is the value that counts. ``event_id: String`` follows where rows have one.
"""


def empty() -> pl.DataFrame:
    """A frame of no replaced rows."""
    return pl.DataFrame(schema=SCHEMA)


def frame(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SCHEMA`, and ``event_id`` where there is one, of rows that may have more."""
    if not len(rows):
        return empty()
    return rows.select(*SCHEMA, *(["event_id"] if "event_id" in rows.columns else []))


def notice(count: int, kept: str) -> list[str]:
    """The line that people should see about replaced rows; none where there are none.

    Args:
        count: how many.
        kept: where they are kept.
    """
    if not count:
        return []
    line = (
        f"{count:,} rows were replaced by a later row of the same series and time ({kept}): their values "
        "differ; where both are right, add them up (windows.aggregate = 'sum'), name a column that tells the "
        "rows apart (data.event_id), or, in an hour that occurs twice in local time, write times with an "
        "offset from UTC"
    )
    return [line]
