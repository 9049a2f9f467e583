"""For each event of a replay, find the version that counts: its first or its last row in the files.

A replay sorts its rows by time. The order in which versions were written must be noted before that.
"""

from __future__ import annotations

import polars as pl

from forecaster.time.duplicates import DROPPED, Keep, content_of

_PLACE = "place in files"


class EventVersions:
    """The versions of all events of a replay; it keeps 24 bytes for each row in memory.

    Args:
        keep: whether the first or the last version of an event counts.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._parts: list[pl.DataFrame] = []
        self._rows = 0
        self._dropped = pl.DataFrame()

    def add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Store the event of each row; return the rows with their indices among all added rows."""
        # A hash of 64 bits: among 10 million events, two have the same hash with a probability of 3e-6.
        event = pl.concat_str(pl.col("series_id").str.len_bytes(), "series_id", "event_id", separator=" ")
        content = pl.struct(content_of(rows)).hash()
        self._parts.append(rows.select(event=event.hash(), content=content, value="value"))
        places = pl.int_range(self._rows, self._rows + len(rows), dtype=pl.Int64)
        self._rows += len(rows)
        return rows.with_columns(places.alias(_PLACE))

    def finish(self) -> None:
        """Find the versions that do not count, after all rows were added."""
        every = pl.concat(self._parts).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(_PLACE))
        self._parts = []
        repeated = every.filter(pl.col("event").is_duplicated())
        of_counting = pl.all().last() if self._keep == "last" else pl.all().first()
        used = repeated.group_by("event", maintain_order=True).agg(of_counting)
        both = repeated.join(used, on="event", suffix=" used").filter(
            pl.col(_PLACE) != pl.col(f"{_PLACE} used")
        )
        differs = pl.col("content") != pl.col("content used")
        self._dropped = both.select(
            _PLACE, replaced_by=pl.when(differs).then("value used"), dropped_in=pl.lit("")
        )

    def marked(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Mark the versions that do not count: replace the column that `add` added by the columns `DROPPED`.

        ``rows`` are rows of the frames that `add` returned.

        The rows stay in their order. ``dropped_in`` and ``dropped_at`` of a version that does not count are
        "" and its place in the files: a replay repairs no window, for which they would be needed.
        """
        joined = rows.join(self._dropped, on=_PLACE, how="left", maintain_order="left")
        dropped_at = pl.when(pl.col("dropped_in").is_not_null()).then(_PLACE)
        return joined.with_columns(dropped_at=dropped_at).select(pl.exclude(_PLACE, *DROPPED), *DROPPED)
