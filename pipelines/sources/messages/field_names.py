"""Find the fields of a message that hold the series, the time and the value."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.files.columns import SERIES_NAMES, TIME_NAMES, VALUE_NAMES
from pipelines.sources.messages.base import MESSAGE
from schemas import text_cells as texts
from schemas.observations import OBSERVED


@dataclass(frozen=True)
class Names:
    """The names of the message fields that a job reads.

    Attributes:
        by_column: for each column of a raw frame, its possible fields; the first field that is not null
            counts.
        parts: the columns whose joined names are the series id; () if one column holds the series id.
    """

    by_column: dict[str, tuple[str, ...]]
    parts: tuple[str, ...] = ()

    @staticmethod
    def of(columns: Columns, series_in_key: bool) -> Names:
        """Return the field names from a job's settings; id, time and value have usual names if not set.

        ``series_in_key``: no field is read for ``series_id``, because the key of the message holds it.
        """
        found: dict[str, tuple[str, ...]] = {
            "series_id": columns.series_columns or SERIES_NAMES,
            "timestamp": (columns.timestamp,) if columns.timestamp else TIME_NAMES,
            "value": (columns.value,) if columns.value else VALUE_NAMES,
        }
        if series_in_key:
            del found["series_id"]
        if columns.event_id:
            found["event_id"] = (columns.event_id,)
        found |= {OBSERVED + name: (name,) for name in columns.observed}
        if len(columns.series_columns) < 2 or series_in_key:
            return Names(found)
        del found["series_id"]
        parts = {f"series_id.{name}": (name,) for name in columns.series_columns}
        return Names(parts | found, tuple(parts))

    @property
    def fields(self) -> list[str]:
        """The names of all fields that the job reads, each once."""
        return list(dict.fromkeys(name for names in self.by_column.values() for name in names))

    def chosen(self, frame: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
        """Return the raw frame of messages: each column, filled from the message fields that may hold it.

        If several fields of a column are present, a cell takes the first of them that is not null.

        Args:
            frame: a column for each field that exists.
            places: the index of each row's message; gives the number of rows if ``frame`` has no columns.
        """
        columns = [
            _first([frame[name] for name in names if name in frame.columns], len(places)).alias(column)
            for column, names in self.by_column.items()
        ]
        return self.with_series_id(pl.DataFrame([*columns, places.cast(pl.Int64).alias(MESSAGE)]))

    def with_series_id(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame with one column ``series_id`` in place of the columns for parts of series ids."""
        if not self.parts:
            return frame
        series = texts.joined_names([frame[part] for part in self.parts]).alias("series_id")
        return frame.drop(self.parts).with_columns(series)


def _first(columns_of_name: list[pl.Series], height: int) -> pl.Series:
    """Return one column: for each row, the first cell of several columns that is not null."""
    columns_of_name = [cells for cells in columns_of_name if cells.dtype != pl.Null]
    if not columns_of_name:
        return pl.Series([None], dtype=pl.String).new_from_index(0, height)
    first, *others = columns_of_name
    if not first.null_count():
        return first
    if any(cells.dtype != first.dtype for cells in others):
        first, *others = [texts.text(cells) for cells in columns_of_name]
    for cells in others:
        first = first.zip_with(first.is_not_null(), cells)
    return first
