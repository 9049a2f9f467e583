"""Check that each series of a keyed topic stays in one shard; in two shards it would be forecast twice."""

from __future__ import annotations

import polars as pl

from schemas.errors import DataError


class SeriesShards:
    """Finds series of a keyed topic with rows in partitions of two shards; it records each series' shard.

    The reader of the topic checks the shards, because only the reader has the rows of all partitions. A shard
    cannot: it would take a row in a wrong partition for the first row of a new series.

    Args:
        known: the shard of each series in the state table.
    """

    def __init__(self, known: dict[str, int]) -> None:
        self._known = known

    def check(self, place: str, series_ids: pl.Series, shard: int | None) -> None:
        """Record ``shard`` as the shard of each series; raise DataError if a series has another shard.

        Args:
            place: topic and partition, as ``topic/0``.
            series_ids: the series of each row.
            shard: the shard that follows the partition; None if all shards do, so that no check is needed.

        Raises:
            DataError: a series had earlier rows in a partition of another shard.
        """
        if shard is None:
            return
        for series_id in series_ids.unique(maintain_order=True):
            home = self._known.setdefault(series_id, shard)
            if home != shard:
                raise DataError(
                    f"{place}: the series {series_id!r} has rows here, but its earlier rows were in a "
                    f"partition of shard {home}: if a series has rows in several partitions, set "
                    "kafka.keyed = false and use a new output folder"
                )
