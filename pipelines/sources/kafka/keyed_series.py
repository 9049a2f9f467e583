"""Where the series of a keyed topic are at home: one in two places would be forecast twice."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import DataError


class Homes:
    """The shard of each series so far.

    Only the reader of a topic sees all of its partitions; a shard would take a row that strayed for the first
    one of a new series.

    Args:
        known: of the series that a state table holds.
    """

    def __init__(self, known: dict[str, int]) -> None:
        self._known = known

    def check(self, place: str, series_ids: Iterable[str], shard: int) -> None:
        """Takes the series that a partition has rows of.

        Args:
            place: topic and partition, as ``topic/0``.
            series_ids: each once.
            shard: which follows the partition.

        Raises:
            DataError: one of them is at home in another shard.
        """
        for series_id in series_ids:
            home = self._known.setdefault(series_id, shard)
            if home != shard:
                raise DataError(
                    f"{place}: the series {series_id!r} has rows here, and before had them in a partition of "
                    f"shard {home}: read a topic whose series have no partition of their own with "
                    "kafka.keyed = false, into a new output folder"
                )
