"""Search series by id among all series of the snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import polars as pl

from pipelines.dashboard.snapshots import ShardSeries

MOST_FOUND: Final = 50
"""Largest number of ids that a search returns."""


class Found(NamedTuple):
    """The result of a search for series whose id contains a text.

    Attributes:
        matching: number of series whose id contains the text.
        of: number of all series.
        ids: at most `MOST_FOUND` of the ids, those that begin with the text first, each part sorted.
    """

    matching: int
    of: int
    ids: list[str]


class SeriesSearch:
    """Searches series ids. It sorts the ids only after a snapshot has changed, not for each search."""

    def __init__(self) -> None:
        self._of: list[tuple[str, int]] = []
        self._ids = self._lower = pl.Series([], dtype=pl.String)

    def find(self, shards: Sequence[ShardSeries], text: str) -> Found:
        """Return how many ids contain a text, and some of these ids; the case of letters does not matter.

        Args:
            shards: the series of all snapshots.
            text: the text; "" is contained in every id.
        """
        if (now := [(one.name, one.written_ns) for one in shards]) != self._of:
            ids = [one.ids.cast(pl.String) for one in shards]
            self._ids = pl.concat([self._ids.clear(), *ids]).sort()
            self._lower, self._of = self._ids.str.to_lowercase(), now
        if not text:
            return Found(len(self._ids), len(self._ids), self._ids.head(MOST_FOUND).to_list())
        wanted = text.lower()
        rows = self._lower.str.contains(wanted, literal=True).arg_true()
        begins = self._lower.gather(rows).str.starts_with(wanted)
        ranked = pl.concat([rows.filter(begins).head(MOST_FOUND), rows.filter(~begins).head(MOST_FOUND)])
        return Found(len(rows), len(self._ids), self._ids.gather(ranked.head(MOST_FOUND)).to_list())
