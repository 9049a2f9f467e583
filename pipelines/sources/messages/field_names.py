"""Which field of a message is the series, the time and the value."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.settings.config import Columns
from pipelines.sources.files.columns import SERIES_NAMES, TIME_NAMES, VALUE_NAMES
from pipelines.sources.messages.base import MESSAGE
from schemas import text_cells as texts
from schemas.observations import OBSERVED


@dataclass(frozen=True)
class Names:
    """Names of fields.

    Attributes:
        by_column: of each column of a raw frame the fields that may hold it; the first that does counts.
    """

    by_column: dict[str, tuple[str, ...]]

    @staticmethod
    def of(columns: Columns, series_in_key: bool) -> Names:
        """As the data section of a job says, or else by the names people use."""
        found: dict[str, tuple[str, ...]] = {
            "series_id": (columns.series_id,) if columns.series_id else SERIES_NAMES,
            "timestamp": (columns.timestamp,) if columns.timestamp else TIME_NAMES,
            "value": (columns.value,) if columns.value else VALUE_NAMES,
        }
        if series_in_key:
            del found["series_id"]
        if columns.event_id:
            found["event_id"] = (columns.event_id,)
        found |= {OBSERVED + name: (name,) for name in columns.observed}
        return Names(found)

    @property
    def fields(self) -> list[str]:
        """All of them."""
        return list(dict.fromkeys(name for names in self.by_column.values() for name in names))

    def chosen(self, frame: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
        """The columns of a raw frame from those of messages; null where none of the names is there.

        Args:
            frame: a column for each field.
            places: of each row the place of its message; a frame without columns has rows, too.
        """
        columns = [
            _first([frame[name] for name in names if name in frame.columns], len(places)).alias(column)
            for column, names in self.by_column.items()
        ]
        return pl.DataFrame([*columns, places.cast(pl.Int64).alias(MESSAGE)])


def _first(there: list[pl.Series], height: int) -> pl.Series:
    """Of each row the first cell that is not null; cells of different types become text."""
    there = [cells for cells in there if cells.dtype != pl.Null]
    if not there:
        return pl.Series([None], dtype=pl.String).new_from_index(0, height)
    first, *others = there
    if not first.null_count():
        return first
    if any(cells.dtype != first.dtype for cells in others):
        first, *others = [texts.text(cells) for cells in there]
    for cells in others:
        first = first.zip_with(first.is_not_null(), cells)
    return first
