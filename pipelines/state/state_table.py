"""Read the state table: the snapshots from which a job resumes, or from which a new job starts warm.

The table is a folder of snapshots, readable with any Parquet reader::

    state/shard-0003-of-0008.parquet     one row per series; see `forecaster.shards.snapshot`

A snapshot is one complete shard. On a disk it is written under a hidden name, synced and renamed, and then
the folder is synced; an object store receives it in one request. So a reader always finds the last complete
snapshot, even if its writer was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from forecaster.shards.batch import is_quarantine
from forecaster.shards.counts import Counts
from forecaster.shards.lateness import largest_watermark
from forecaster.shards.shard import Shard
from forecaster.state import State
from forecaster.time.duplicates import DROPPED, ORIGIN, PARTITION
from pipelines.sources.quarantine_manifest import MANIFEST
from pipelines.state.snapshot_file import NAME, read_file, reading, snapshot_paths
from pipelines.state.table_files import copy_aside, recover, write
from pipelines.storage import Location, store_of
from schemas.errors import DataError, StatecastError

__all__ = [
    "FOLDER",
    "PartitionProgress",
    "StateTable",
    "copy_aside",
    "exists",
    "is_of_backfill",
    "read",
    "read_series_shards",
    "recover",
    "write",
]

FOLDER: Final = "state"
"""The folder of the state table in an output folder."""

_BACKFILL = "replay"  # the name of the only partition of a backfill


class PartitionProgress(NamedTuple):
    """How far a partition was read: the offsets and watermarks that the shards have reached in it.

    Attributes:
        offset: the smallest offset that a shard has reached; reading resumes from this offset.
        watermark_us: watermark of the partition at ``offset``; None if it has none.
        others: the larger offsets that other shards have reached, ascending.
        furthest_watermark_us: the greatest watermark of the partition in any shard; None if it has none.
    """

    offset: int
    watermark_us: int | None
    others: tuple[int, ...]
    furthest_watermark_us: int | None


@dataclass(frozen=True)
class StateTable:
    """A state table in memory: the shards of a job.

    Attributes:
        shards: all shards, in the order of their numbers.
    """

    shards: tuple[Shard, ...]

    @property
    def state(self) -> State:
        """The states of the series of all shards, joined."""
        return State.join([shard.state for shard in self.shards])

    @property
    def pending(self) -> pl.DataFrame:
        """The pending rows of all shards, as an observation frame."""
        named = [shard.pending.join(shard.slots, on="slot", how="left") for shard in self.shards]
        rows = pl.concat(named, how="diagonal").drop(
            "slot", "window", "offset", PARTITION, ORIGIN, *DROPPED, strict=False
        )
        return rows.select("series_id", pl.exclude("series_id"))

    @property
    def closed_through(self) -> int | None:
        """The last window that all shards have closed; None if a shard has not closed any window."""
        closed = [shard.closed_through for shard in self.shards]
        return None if None in closed else min(c for c in closed if c is not None)

    @property
    def counts(self) -> Counts:
        """The counts of rows by outcome, since the first run of the job."""
        return sum((shard.counts for shard in self.shards), Counts())

    def offset(self, partition: str) -> int:
        """Return the offset at which reading of a partition resumes: the smallest offset of its shards."""
        return min(shard.offsets.get(partition, 0) for shard in self._followers(partition))

    def progress_by_partition(self) -> dict[str, PartitionProgress]:
        """Return how far each partition was read, by the name of the partition."""
        found = {}
        for name in dict.fromkeys(name for shard in self.shards for name in shard.offsets):
            stands = [(s.offsets.get(name, 0), s.watermarks.get(name)) for s in self._followers(name)]
            least, *others = sorted({offset for offset, _ in stands})
            there_us = largest_watermark(us for offset, us in stands if offset == least)
            found[name] = PartitionProgress(
                least, there_us, tuple(others), largest_watermark(us for _, us in stands)
            )
        return found

    def _followers(self, partition: str) -> list[Shard]:
        """Return the shards that apply rows of a partition; all shards if the table lacks the partition."""
        return [shard for shard in self.shards if not shard.keyed or partition in shard.offsets] or [
            *self.shards
        ]


def exists(folder: Location) -> bool:
    """Return whether ``folder`` has a state table."""
    return store_of(folder).read_consistently(lambda there: bool(snapshot_paths(there)))


def read(folder: Location, *, series: bool = True) -> StateTable:
    """Read the state table in ``folder``.

    Args:
        folder: folder of the table.
        series: whether to read the series and their rows; False reads only offsets, watermarks and counts,
            which is fast for a large table.

    Raises:
        DataError: no table exists, a file is unreadable, or a shard is missing.
        ModelError: this version of Statecast cannot read the format of the table.
    """
    return store_of(folder).read_consistently(lambda there: _read_table(there, series))


def _read_table(folder: Location, series: bool) -> StateTable:
    paths = snapshot_paths(folder)
    if not paths:
        raise DataError(f"{folder} holds no state table: name the `state` folder of a backfill or a stream")
    shards = tuple(read_file(path, series=series) for path in paths)
    of = shards[0].of
    if [(s.number, s.of) for s in shards] != [(number, of) for number in range(of)]:
        raise DataError(
            f"{folder}: needs one snapshot of each of its {of} shards (snapshots: {len(shards)}): copy the "
            "whole folder again"
        )
    return StateTable(shards)


def read_series_shards(folder: Location) -> dict[str, int]:
    """Return the shard number of each series in the state table in ``folder``; empty without a table.

    Raises:
        DataError: a file is unreadable.
    """
    found: dict[str, int] = {}
    for path in snapshot_paths(folder):
        if (name := NAME.fullmatch(path.name)) is not None:
            with reading(path):
                ids = pq.read_table(store_of(path).source(), columns=["series_id"])["series_id"]
            found |= dict.fromkeys(ids.to_pylist(), int(name[1]))
    return found


def read_offsets(folder: Location) -> dict[str, int]:
    """Return the offset at which reading of each partition resumes; {} if no state table can be read."""
    try:
        progress = read(folder, series=False).progress_by_partition()
    except StatecastError:  # the table does not exist yet, or is being replaced
        return {}
    return {name: found.offset for name, found in progress.items()}


def is_of_backfill(folder: Location) -> bool:
    """Return True if a backfill wrote the state table in ``folder``, False if a stream wrote it.

    The difference matters because a stream must resume from the offsets in its table. The table of a backfill
    stays one after a replay of the quarantine.

    Raises:
        StatecastError: the table cannot be read.
    """
    # A backfill's table holds no JSON file except, during a quarantine replay, the manifest of that replay.
    if any(path.name != MANIFEST for path in folder.glob("*.json*")):
        return False
    names = read(folder, series=False).progress_by_partition()
    return {name for name in names if not is_quarantine(name)} <= {_BACKFILL}
