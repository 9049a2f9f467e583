"""Define how a job reads rows in steps: from a `Source` with one partition, or a `Log` with several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import largest_watermark, smallest_watermark

Place = TypeVar("Place")
R = TypeVar("R")
S = TypeVar("S")


class Step(NamedTuple, Generic[Place]):
    """The batches that one call of `Source.step` (``Step[int]``) or `Log.step` (``Step[Positions]``) returns.

    Attributes:
        batches: the next batches, within a partition in the order of their offsets; empty if there are no new
            rows. The first batch of a new partition announces the partition.
        reached: the place from which the next step reads: the offset in a source, the positions in a log.
        wait_s: seconds to wait before the next step.
    """

    batches: tuple[Batch, ...]
    reached: Place
    wait_s: float = 0.0


class Source(Protocol):
    """The protocol of a source of rows with one partition.

    A source must be picklable, because it is sent to the worker that reads it. A source must also be
    repeatable: each read of an offset returns the same row, with the same watermark before the row.
    """

    @property
    def partition(self) -> str:
        """The name of the partition."""

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time; if False, all rows exist already, and are read at full speed.

        In the second case the job reports no latency, which would only measure the number of rows.
        """

    def step(self, offset: int) -> Step[int] | None:
        """Read the next rows from ``offset`` on; return None if the source has ended and gets no more rows.

        Raises:
            DataError: the source cannot be read; the message is one line and names the fix.
        """


class Position(NamedTuple):
    """A position in a partition, from which reading starts or continues.

    Attributes:
        offset: the offset of the next row.
        watermark_us: the partition's watermark before the next row, in microseconds; None if the partition
            has no watermark yet, or if its source computes the watermark from the offset.
        cuts: greater offsets, ascending, from which some shards resume. A batch ends at each of them, so that
            every shard applies either a whole batch or none of it.
        furthest_watermark_us: the partition's watermark in the shard that had read furthest, in microseconds,
            because the windows that this shard closed stay closed; None if no shard had read further than the
            others.
        shard: the only shard that follows the partition; None if all shards do.
    """

    offset: int
    watermark_us: int | None = None
    cuts: tuple[int, ...] = ()
    furthest_watermark_us: int | None = None
    shard: int | None = None

    @property
    def furthest_us(self) -> int | None:
        """The partition's greatest watermark in any shard; None if no shard has one for the partition."""
        return largest_watermark((self.watermark_us, self.furthest_watermark_us))


Positions = Mapping[str, Position]
"""The position of the reader in each partition, by the name of the partition."""


def furthest_us(places: Positions, shard: int | None) -> int | None:
    """Return an upper limit of the times of a shard's closed windows; None if it can have closed none.

    This is the least `Position.furthest_us` of the partitions that ``shard`` follows. For a topic that is not
    keyed, ``shard`` is None, and all shards have the same time.
    """
    return smallest_watermark(place.furthest_us for place in places.values() if place.shard == shard)


def followed(places: Positions, shard: int | None) -> int:
    """Return how many partitions in ``places`` a shard follows."""
    return sum(place.shard == shard for place in places.values())


@runtime_checkable
class Log(Protocol):
    """The protocol of a source with several partitions that one reader reads together.

    One reader reads all partitions for two reasons. The watermark of an idle partition is computed from the
    watermarks of the other partitions. And if each partition were read in turn, a wait for one partition
    would delay all others.
    """

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time; False if all rows exist already; see `Source`."""

    def begin(self, reached: Positions) -> Positions:
        """Return, for each partition of the log, the position from which the partition is read.

        Args:
            reached: the positions from which a job resumes; a partition without a position begins at its
                first row.

        Raises:
            DataError: the log cannot be read, or lacks the rows at these positions; the message is one line
                and names the fix.
        """

    def step(self, places: Positions) -> Step[Positions] | None:
        """Read the rows from ``places`` on; return None if the log has ended and gets no more rows.

        Raises:
            DataError: the log cannot be read; the message is one line and names the fix.
        """


@dataclass(frozen=True)
class OnePartition:
    """Adapts a `Source` to the `Log` protocol.

    Attributes:
        source: the only partition of the log.
    """

    source: Source

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time; False if all rows exist already; see `Source`."""
        return self.source.is_paced

    def begin(self, reached: Positions) -> Positions:
        """Return the position in the source's only partition at which reading begins.

        The position has no watermark, because a source computes watermarks itself.
        """
        name = self.source.partition
        return {name: Position(reached[name].offset if name in reached else 0)}

    def step(self, places: Positions) -> Step[Positions] | None:
        """Read the rows of the source from ``places`` on; return None if the source has ended."""
        name = self.source.partition
        step = self.source.step(places[name].offset)
        return None if step is None else Step(step.batches, {name: Position(step.reached)}, step.wait_s)


def as_log(source: Source | Log) -> Log:
    """Return a log unchanged; wrap a source as a log of one partition."""
    return source if isinstance(source, Log) else OnePartition(source)


_opened: dict[Any, Any] = {}


def opened(source: S, open_reader: Callable[[S], R]) -> R:
    """Return the reader of a source; all calls for the same source in this process return the same reader.

    The first call opens the reader, and closes the reader of any other source.
    """
    if source not in _opened:
        close_opened()
        _opened[source] = open_reader(source)
    reader: R = _opened[source]
    return reader


def close_opened() -> None:
    """Close the reader that an earlier job in this process opened, so that the next job reads anew."""
    while _opened:
        _opened.popitem()[1].close()
