"""The state table: the handover, the warm start, and what a job that was stopped or killed goes on from.

A folder of snapshots, readable with any Parquet reader::

    state/shard-0003-of-0008.parquet     one row a series; `forecaster.shards.snapshot` says what else is in
    it

A snapshot is one shard whole. It is written under a hidden name, synced and renamed, and the folder is synced
after it; in an object store it is put at once. Whoever opens it finds the last one that was complete,
whenever the writer died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from forecaster.shards.counts import Counts
from forecaster.shards.lateness import newest
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import announced, hand_over_shards, reshard
from forecaster.state import State
from forecaster.time.windows import ORIGIN, PARTITION
from pipelines.state.snapshot_file import NAME, read_file, unreadable
from pipelines.state.table_files import copy_aside, recover, write
from pipelines.storage import Location, read_consistently, source_of
from schemas.errors import DataError, ModelError, StatecastError

__all__ = [
    "FOLDER",
    "Reached",
    "StateTable",
    "begin",
    "copy_aside",
    "exists",
    "homes",
    "is_of_backfill",
    "read",
    "recover",
    "write",
]

FOLDER: Final = "state"
"""The folder of the state table in an output folder."""

_NO_PARTITIONS: Mapping[str, int] = {}
_OLD_SERIES = "series"
_BACKFILL = "replay"  # the only partition of a backfill's log


class Reached(NamedTuple):
    """How far the shards that follow a partition have read it.

    Attributes:
        offset: the least of any of them: of the row that comes next.
        watermark_us: the partition's watermark before that row; None where it has none.
        others: the offsets of the shards that are further, rising.
        furthest_watermark_us: the partition's watermark at the shard that is furthest; None where it has
        none.
    """

    offset: int
    watermark_us: int | None
    others: tuple[int, ...]
    furthest_watermark_us: int | None


@dataclass(frozen=True)
class StateTable:
    """A state table as read back.

    Attributes:
        shards: all of them, in order.
    """

    shards: tuple[Shard, ...]

    @property
    def state(self) -> State:
        """The states of all series, as one."""
        return State.join([shard.state for shard in self.shards])

    @property
    def pending(self) -> pl.DataFrame:
        """Observation frame of the rows that wait for their windows to close."""
        named = [shard.pending.join(shard.slots, on="slot", how="left") for shard in self.shards]
        rows = pl.concat(named, how="diagonal").drop(
            "slot", "window", "offset", PARTITION, ORIGIN, strict=False
        )
        return rows.select("series_id", pl.exclude("series_id"))

    @property
    def closed_through(self) -> int | None:
        """The last window that all shards have closed; None where one has closed none."""
        closed = [shard.closed_through for shard in self.shards]
        return None if None in closed else min(c for c in closed if c is not None)

    @property
    def counts(self) -> Counts:
        """Where the rows of the job that wrote it went."""
        return sum((shard.counts for shard in self.shards), Counts())

    def offset(self, partition: str) -> int:
        """Where a source goes on: what every shard has read, none reads again."""
        return min(shard.offsets.get(partition, 0) for shard in self._followers(partition))

    def reached(self) -> dict[str, Reached]:
        """How far each partition was read, by its name."""
        found = {}
        for name in dict.fromkeys(name for shard in self.shards for name in shard.offsets):
            stands = [(s.offsets.get(name, 0), s.watermarks.get(name)) for s in self._followers(name)]
            least, *others = sorted({offset for offset, _ in stands})
            there_us = newest(us for offset, us in stands if offset == least)
            found[name] = Reached(least, there_us, tuple(others), newest(us for _, us in stands))
        return found

    def _followers(self, partition: str) -> list[Shard]:
        """The shards that read it; all where none has begun to."""
        return [shard for shard in self.shards if not shard.keyed or partition in shard.offsets] or [
            *self.shards
        ]


def exists(folder: Location) -> bool:
    """Whether there is a state table in ``folder``."""
    return read_consistently(folder, lambda there: bool(_paths(there)) or _is_old(there))


def read(folder: Location, *, series: bool = True) -> StateTable:
    """The state table in ``folder``.

    Args:
        folder: where it is.
        series: with its series and their rows; without, to learn where its shards stand, which is little to
            read of a large table.

    Raises:
        DataError: there is none, a file of it cannot be read, or a shard is missing.
        ModelError: it is of a format that this version does not read.
    """
    return read_consistently(folder, lambda there: _read_table(there, series))


def _read_table(folder: Location, series: bool) -> StateTable:
    if _is_old(folder):
        raise ModelError(
            f"{folder}: a state table of format 1 is not readable here: start without it, from the rows; "
            "--fresh keeps it beside the new one"
        )
    paths = _paths(folder)
    if not paths:
        raise DataError(f"{folder} holds no state table: name the `state` folder of a backfill or a stream")
    shards = tuple(read_file(path, series=series) for path in paths)
    of = shards[0].of
    if [(s.number, s.of) for s in shards] != [(number, of) for number in range(of)]:
        raise DataError(
            f"{folder}: holds {len(shards)} shards, not each of {of} once: copy the folder again, as a whole"
        )
    return StateTable(shards)


def homes(folder: Location) -> dict[str, int]:
    """The shard of each series of the table in ``folder``; none where there is no table.

    Raises:
        DataError: a file of it cannot be read.
    """
    found: dict[str, int] = {}
    for path in _paths(folder):
        if (name := NAME.fullmatch(path.name)) is not None:
            try:
                ids = pq.read_table(source_of(path), columns=["series_id"])["series_id"]
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise DataError(unreadable(path, error)) from error
            found |= dict.fromkeys(ids.to_pylist(), int(name[1]))
    return found


def offsets(folder: Location) -> dict[str, int]:
    """The offset from which each partition may be read again; empty where the table cannot be read."""
    try:
        return {name: reached.offset for name, reached in read(folder, series=False).reached().items()}
    except StatecastError:  # there is none yet, or it is just put in place
        return {}


def _paths(folder: Location) -> list[Location]:
    found = [path for path in folder.glob("*.parquet") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def begin(
    folder: Location,
    shards: int,
    start: Location | None,
    cold: State,
    *,
    resume: bool = False,
    partitions: Mapping[str, int] = _NO_PARTITIONS,
    owners: Mapping[str, int] = _NO_PARTITIONS,
) -> None:
    """Puts the table in ``folder`` that a run of a job of ``shards`` shards begins with.

    It is whole from the start, so that a job that is killed amid its first snapshots goes on as from any.
    Each shard knows all of its partitions: no window closes before each of these has a watermark.

    Args:
        folder: the job's own table.
        shards: number of shards.
        start: table that a new job starts from, with a log of its own; None starts cold.
        cold: `forecaster.model.Forecaster.initial_state`, of shards that start cold.
        resume: ``folder`` holds the table of an earlier run of this job, and the run goes on from it; cut
            anew where it has another number of shards.
        partitions: the offset at which the reading of each begins; of those that a table knows it stays.
        owners: of each partition of a topic that is keyed by series, the only shard that follows it.

    Raises:
        DataError: ``start`` holds no table, or one that cannot be cut as asked.
    """
    if start is None:
        empty = [Shard.cold(number, shards, cold, ()) for number in range(shards)]
        write(folder, [announced(shard, partitions, owners) for shard in empty])
        return

    def begun(table: StateTable) -> Sequence[Shard]:
        try:
            made = _as_asked(table, shards, is_keyed=bool(owners), resume=resume)
        except DataError as error:
            raise DataError(f"{start}: {error}") from None
        return [
            announced(shard, partitions, owners) for shard in (made if resume else hand_over_shards(made))
        ]

    table = read(start, series=False)
    if not resume or not _stand_alike(begun(table), table.shards):
        write(folder, begun(read(start)), also=folder if resume else None)


def _stand_alike(some: Sequence[Shard], others: Sequence[Shard]) -> bool:
    """Whether as many shards know the same partitions."""
    return [shard.offsets.keys() for shard in some] == [shard.offsets.keys() for shard in others]


def _as_asked(table: StateTable, shards: int, *, is_keyed: bool, resume: bool) -> Sequence[Shard]:
    """The shards of a table in the number asked for; those that a run goes on from stay as they are."""
    if is_keyed and not table.shards[0].keyed:
        raise DataError(
            "its series lie in shards by their names, and with kafka.keyed = true by partitions: begin "
            "without it, or read the topic with kafka.keyed = false"
        )
    if len(table.shards) == shards and (is_keyed or (resume and not table.shards[0].keyed)):
        return table.shards
    return reshard(table.shards, shards)


def is_of_backfill(folder: Location) -> bool:
    """Whether a backfill left the table: a stream's holds the place in a log that the stream goes on with.

    Raises:
        StatecastError: it cannot be read.
    """
    if any(folder.glob("*.json*")):  # what a source of a stream must find again
        return False
    return read(folder, series=False).reached().keys() <= {_BACKFILL}


def _is_old(folder: Location) -> bool:
    """Whether it holds a table of format 1, which had a folder for series."""
    return any((folder / _OLD_SERIES).glob("*.parquet"))
