"""What a source of rows is: a log of one partition or of several, read in steps, without Beam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import least, newest


class Step(NamedTuple):
    """What a source has next.

    Attributes:
        batches: in the order of their offsets; none while there is nothing to read.
        offset: where to go on from.
        wait_s: seconds until it is worth asking again.
    """

    batches: tuple[Batch, ...]
    offset: int
    wait_s: float = 0.0


class Source(Protocol):
    """One partition of a log; picklable, since it travels to the worker that reads.

    What it has read it can read again: the same offset is the same row, with the same watermark before it.
    """

    @property
    def partition(self) -> str:
        """Name of the partition."""

    @property
    def is_paced(self) -> bool:
        """Whether rows come in a time of their own; else a job's latency is the backlog that it works off."""

    def step(self, offset: int) -> Step | None:
        """The next step from ``offset`` on, or None at the end for good.

        Raises:
            DataError: the source is at fault; one line with the fix.
        """


class Place(NamedTuple):
    """Where the reading of a partition stands.

    Attributes:
        offset: of the next row.
        watermark_us: the partition's watermark before that row; None where it has none, or its source finds
            it by itself.
        cuts: offsets after that one, rising, at which shards stood when they were opened: a batch ends there,
            so that each shard takes a batch in whole or not at all.
        ahead_us: the partition's watermark at the shard that was furthest, since what that has closed is
            closed; None where no shard was further than the others.
        shard: the only one that follows it; None where all do.
    """

    offset: int
    watermark_us: int | None = None
    cuts: tuple[int, ...] = ()
    ahead_us: int | None = None
    shard: int | None = None

    @property
    def furthest_us(self) -> int | None:
        """The partition's greatest watermark in any shard."""
        return newest((self.watermark_us, self.ahead_us))


Places = Mapping[str, Place]
"""Where the reading of each partition stands, by the partition's name."""


def furthest_us(places: Places, shard: int | None) -> int | None:
    """No shard that follows what ``shard`` does has closed windows beyond; None where it has closed none."""
    return least(place.furthest_us for place in places.values() if place.shard == shard)


class Stride(NamedTuple):
    """What a log has next.

    Attributes:
        batches: those of one partition in the order of their offsets; none while there is nothing to read.
        places: where to go on from; a partition that is new among them is announced by its first batch.
        wait_s: seconds until it is worth asking again.
    """

    batches: tuple[Batch, ...]
    places: Places
    wait_s: float = 0.0


@runtime_checkable
class Log(Protocol):
    """Partitions that are read together; picklable, as a `Source` is.

    They are one thing to read, and not one each: whether a partition is idle, and how far time has come
    without it, is known from the others; and a step that waits for one would have the next one wait.
    """

    @property
    def is_paced(self) -> bool:
        """See `Source`."""

    def begin(self, reached: Places) -> Places:
        """Every partition that there is, and where its reading begins: where it is ``reached``, go on.

        Raises:
            DataError: the log cannot be read, or not from there; one line with the fix.
        """

    def step(self, places: Places) -> Stride | None:
        """The next step from ``places`` on, or None at the end for good.

        Raises:
            DataError: the log is at fault; one line with the fix.
        """


@dataclass(frozen=True)
class OnePartition:
    """A `Source` as a `Log`.

    Attributes:
        source: its only partition.
    """

    source: Source

    @property
    def is_paced(self) -> bool:
        """See `Source`."""
        return self.source.is_paced

    def begin(self, reached: Places) -> Places:
        """See `Log`; a source finds the watermark before an offset by itself."""
        name = self.source.partition
        return {name: Place(reached[name].offset if name in reached else 0)}

    def step(self, places: Places) -> Stride | None:
        """See `Log`."""
        name = self.source.partition
        step = self.source.step(places[name].offset)
        return None if step is None else Stride(step.batches, {name: Place(step.offset)}, step.wait_s)


def log_of(source: Source | Log) -> Log:
    """A source as what is read: a log of one partition, unless it is a log already."""
    return source if isinstance(source, Log) else OnePartition(source)
