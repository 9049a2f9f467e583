"""Write the state table with which a run begins: an empty one, another job's, or an earlier run's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from forecaster.shards.shard import Shard
from forecaster.shards.sharding import add_partitions, hand_over_shards, reshard
from forecaster.state import State
from pipelines.state.state_table import StateTable, read
from pipelines.state.table_files import write
from pipelines.storage import Location
from schemas.errors import DataError

_NONE_BY_PARTITION: Mapping[str, int] = {}


def write_first_table(
    folder: Location,
    shards: int,
    start: Location | None,
    cold: State,
    *,
    resume: bool = False,
    partitions: Mapping[str, int] = _NONE_BY_PARTITION,
    owners: Mapping[str, int] = _NONE_BY_PARTITION,
) -> None:
    """Write the state table with which a run begins, unless a resumed run can use its table unchanged.

    The table is complete before the run begins. So a job that is killed before every shard has written its
    first snapshot resumes like any other job. Every shard gets the list of partitions, so that it closes no
    window before each of them has a watermark.

    Without ``start``, the job begins cold, with an empty state. With ``start``, it begins warm, with the
    states of another job. With ``start`` and ``resume``, it resumes an earlier run.

    Args:
        folder: folder of the job's table.
        shards: number of shards.
        start: table with the first states; a new job copies its states, but not its offsets. None starts
            cold.
        cold: the empty state for shards that start cold, `forecaster.model.Forecaster.initial_state`.
        resume: whether ``start`` is the table of an earlier run of this job. If so, its offsets are kept, and
            it is re-sharded if the number of shards has changed.
        partitions: the first offset of each partition; it counts only for partitions without an offset in a
            resumed table.
        owners: for a topic that is keyed by series, the only shard that follows each partition.

    Raises:
        DataError: ``start`` holds no table, or one that cannot be re-sharded.
    """
    log = _Log(partitions, owners)
    if start is None:
        _begin_cold(folder, shards, cold, log)
    elif resume:
        _resume(folder, shards, start, log)
    else:
        _begin_warm(folder, shards, start, log)


class _Log(NamedTuple):
    """The partitions that a run reads; for a keyed topic, also the one shard that gets a partition's rows.

    Attributes:
        partitions: first offset of each partition.
        owners: for a topic that is keyed by series, the only shard that follows each partition.
    """

    partitions: Mapping[str, int]
    owners: Mapping[str, int]

    @property
    def is_keyed(self) -> bool:
        """Whether the run reads a topic that is keyed by series, so that one shard follows each partition."""
        return bool(self.owners)

    def add_partitions_to(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards with the log's partitions added.

        A shard then closes no window until each partition that it follows has a watermark.
        """
        return [add_partitions(shard, self.partitions, self.owners) for shard in shards]


def _begin_cold(folder: Location, shards: int, cold: State, log: _Log) -> None:
    """Write a state table without series, with which a run begins cold."""
    write(folder, log.add_partitions_to(Shard.cold(number, shards, cold, ()) for number in range(shards)))


def _begin_warm(folder: Location, shards: int, start: Location, log: _Log) -> None:
    """Write a state table with the states and open windows of another job, but without its offsets."""
    table = read(start)
    with _errors_with_folder(start):
        made = _keyed_shards(table, shards) if log.is_keyed else reshard(table.shards, shards)
    write(folder, log.add_partitions_to(hand_over_shards(made)))


def _resume(folder: Location, shards: int, start: Location, log: _Log) -> None:
    """Rewrite the state table of an earlier run if the number of shards or the partitions have changed.

    The new table keeps the offsets, and the manifests of the sources.
    """

    def resumed(table: StateTable) -> list[Shard]:
        with _errors_with_folder(start):
            if log.is_keyed:
                made = _keyed_shards(table, shards)
            elif len(table.shards) == shards and not table.shards[0].keyed:
                made = table.shards
            else:
                made = reshard(table.shards, shards)
        return log.add_partitions_to(made)

    # To find whether the table must be rewritten, read only its offsets, watermarks and counts: this is
    # fast, because the series and their rows are not read.
    table = read(start, series=False)
    if not _have_same_partitions(resumed(table), table.shards):
        write(folder, resumed(read(start)), also=folder)


def _have_same_partitions(some: Sequence[Shard], others: Sequence[Shard]) -> bool:
    """Return whether two lists of shards are equally long and agree, index by index, in their partitions."""
    return [shard.offsets.keys() for shard in some] == [shard.offsets.keys() for shard in others]


def _keyed_shards(table: StateTable, shards: int) -> tuple[Shard, ...]:
    """Return the shards of a state table, for a job that reads a topic with ``kafka.keyed = true``.

    The table must be of such a topic too, and have exactly ``shards`` shards.

    Raises:
        DataError: the table is not of a keyed topic, or has another number of shards.
    """
    if not table.shards[0].keyed:
        raise DataError(
            "this table assigns series to shards by series id, but kafka.keyed = true assigns them by "
            "partition: begin without the table, or read the topic with kafka.keyed = false"
        )
    if len(table.shards) == shards:
        return table.shards
    # For the table of a topic keyed by series, this always raises DataError: partitions decide the shards.
    return reshard(table.shards, shards)


@contextmanager
def _errors_with_folder(table: Location) -> Iterator[None]:
    """Add the folder of a state table to the message of a `DataError` that the ``with`` block raises."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{table}: {error}") from None
