"""Schema of replaced rows.

A replaced row is an observation that does not count, because another row has the same series and time but
another value, or the same series and event but another value or time.
"""

from __future__ import annotations

import polars as pl

SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "replaced_by": pl.Float64(),
}
"""Columns and types of a frame of replaced rows.

``replaced_by`` is the value of the row that counts. ``event_id: String`` follows if rows have one.
"""


def empty() -> pl.DataFrame:
    """Return an empty frame of replaced rows."""
    return pl.DataFrame(schema=SCHEMA)


def frame(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with only the columns of `SCHEMA`, and ``event_id`` if the rows have it.

    If there are no rows, the result is `empty`, without ``event_id``.
    """
    if not len(rows):
        return empty()
    return rows.select(*SCHEMA, *(["event_id"] if "event_id" in rows.columns else []))


def notice(count: int, kept: str) -> list[str]:
    """Return a list with a message for the user about the replaced rows, or an empty list if there are none.

    Args:
        count: the number of replaced rows.
        kept: the place where the replaced rows are stored, as words for the message.
    """
    if not count:
        return []
    line = (
        f"{count:,} rows were replaced by another row of the same series and time or event ({kept}): their "
        "values differ; where both are right, add them up (windows.aggregate = 'sum'), name a column that "
        "identifies each event (data.event_id), or, in an hour that occurs twice in local time, write times "
        "with an offset from UTC"
    )
    return [line]
