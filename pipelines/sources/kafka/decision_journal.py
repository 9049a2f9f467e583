"""Record decisions that depend on the time of reading a topic, so that a re-read repeats them.

Three decisions depend on the time of reading: whether a partition is idle, whether a row is in the future,
and whether the schema registry answers. A re-read at another time could decide otherwise. So each decision is
written to the disk before it takes effect. The journal has four kinds of records::

    partition, offset, watermark_us     from this offset on, an idle partition has at least this watermark
    partition, offset, stop, clock_us   from this offset on, rows are compared with this clock
    partition, offset, stop, reason     the messages from this offset to ``stop`` had an unknown schema
    schema, text                        a schema of the registry
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecaster.shards.lateness import NEVER
from pipelines.storage import Journal, Location, output_errors
from schemas.errors import DataError

LONGEST = 10_000
"""Number of records above which the journal is rewritten without the records that no re-read needs."""

Offsets = NDArray[np.int64]
Record = Mapping[str, Any]


class Refused(NamedTuple):
    """Messages at offsets ``[start, stop)`` that were rejected because their schema was unknown."""

    start: int
    stop: int
    reason: str


class ClockDecision(NamedTuple):
    """A stored wall clock, which decides which rows from offset ``start`` on are in the future.

    A row is in the future if its time is too far after the clock. A later record may replace the clock for
    rows from offset ``stop`` on. ``clock_us`` is in microseconds since 1970.
    """

    start: int
    stop: int
    clock_us: int


@dataclass
class _Partition:
    """The stored decisions about one partition, each list sorted by offset.

    They are its watermarks, the wall clocks that decide which rows are in the future, and refused messages.
    """

    # From the offset ``offsets[i]`` on, the watermark is at least ``watermarks[i]`` microseconds.
    offsets: list[int] = field(default_factory=list)
    watermarks: list[int] = field(default_factory=list)
    clocks: list[ClockDecision] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def raise_watermark(self, offset: int, watermark_us: int) -> None:
        offsets, watermarks = self.offsets, self.watermarks
        place = bisect_right(offsets, offset)
        if place and offsets[place - 1] == offset:
            watermarks[place - 1] = max(watermarks[place - 1], watermark_us)
        else:
            offsets.insert(place, offset)
            watermarks.insert(place, watermark_us)
        for later in range(max(place, 1), len(watermarks)):
            watermarks[later] = max(watermarks[later], watermarks[later - 1])

    def forget(self, before: int) -> None:
        """Remove the decisions that only affect rows before the offset ``before``."""
        kept = max(bisect_right(self.offsets, before) - 1, 0)
        del self.offsets[:kept], self.watermarks[:kept]
        while len(self.clocks) > 1 and self.clocks[1].start <= before:
            del self.clocks[0]
        self.refused = [one for one in self.refused if one.stop > before]

    def records(self, name: str) -> Iterator[Record]:
        for offset, us in zip(self.offsets, self.watermarks, strict=True):
            yield {"partition": name, "offset": offset, "watermark_us": us}
        yield from (_clock_record(name, one) for one in self.clocks)
        yield from (_refusal_record(name, one) for one in self.refused)


class Decisions:
    """The decisions of a job about the messages of a topic, held in memory and in the journal.

    When the journal has become long, decisions that only affect rows that no shard reads again are removed.

    Args:
        path: path of the journal, which its first decision creates.
        read_offsets: returns, for each partition, the least offset from which a shard may read again;
            called when the journal has become long.

    Raises:
        DataError: the journal cannot be read.
    """

    def __init__(self, path: Location, read_offsets: Callable[[], Mapping[str, int]] = dict) -> None:
        self.path, self.read_offsets = path, read_offsets
        self._by_partition: dict[str, _Partition] = {}
        self._schemas: dict[int, str] = {}
        self._records, self._longest = 0, LONGEST
        try:
            # Opening the journal removes an incomplete last line. Its decision never took effect.
            self._journal = Journal(path)
            for number, record in self._journal.records():
                self._apply(record, number)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}): restore the file") from None
        self._shorten()

    def raise_watermark(self, partition: str, offset: int, watermark_us: int) -> None:
        """Record that from ``offset`` on, the watermark of ``partition`` is at least ``watermark_us``.

        Raises:
            OutputError: the journal cannot be written; every method that adds a record raises this.
        """
        self._add({"partition": partition, "offset": offset, "watermark_us": watermark_us})

    def keep_clocks(self, clocks: Mapping[str, ClockDecision]) -> None:
        """Store the clock decision of each partition in ``clocks``; see `ClockDecision`."""
        self._add(*(_clock_record(name, one) for name, one in clocks.items()))

    def refuse(self, refused: Mapping[str, list[Refused]]) -> None:
        """Store, by partition, the offsets of messages rejected for an unknown schema, and the reasons."""
        self._add(*(_refusal_record(name, one) for name, found in refused.items() for one in found))

    def keep_schema(self, number: int, text: str) -> None:
        """Store the text of the registry's schema with the id ``number`` in the journal."""
        self._add({"schema": number, "text": text})

    def schema(self, number: int) -> str | None:
        """Return the text of the registry's schema with the id ``number``; None if the journal lacks it."""
        return self._schemas.get(number)

    def before(self, partition: str) -> Callable[[Offsets], Offsets]:
        """Return a function that maps each given offset to the last watermark stored at or before the offset.

        The function returns `NEVER` for an offset before the first stored watermark.
        """
        found = self._of(partition)
        values, at = np.array([NEVER, *found.watermarks], np.int64), np.array(found.offsets, np.int64)
        return lambda wanted: values[np.searchsorted(at, wanted, side="right")]

    def at(self, partition: str, offset: int, watermark_us: int | None) -> int | None:
        """Return the later of ``watermark_us`` and the stored watermark at ``offset``; see `before`.

        Return None if ``watermark_us`` is None and no watermark is stored for the offset.
        """
        us = int(self.before(partition)(np.array([offset], np.int64))[0])
        if us == NEVER:
            return watermark_us
        return us if watermark_us is None else max(us, watermark_us)

    def clock_us(self, partition: str, offsets: Offsets) -> Offsets:
        """Return, for each offset, the stored clock to compare with the times of the rows at this offset.

        The array has the shape of ``offsets [n]``. Offsets before the first stored clock have `NEVER`.
        """
        clocks = self._of(partition).clocks
        values = np.array([NEVER, *(one.clock_us for one in clocks)], np.int64)
        return values[
            np.searchsorted(np.array([one.start for one in clocks], np.int64), offsets, side="right")
        ]

    def settled(self, partition: str) -> int:
        """Return the offset from which on another `ClockDecision` may replace the last one; 0 without one."""
        clocks = self._of(partition).clocks
        return clocks[-1].stop if clocks else 0

    def refused(self, partition: str) -> list[Refused]:
        """Return the offsets of a partition's messages with unknown schemas, and the reasons."""
        return self._of(partition).refused

    def _of(self, partition: str) -> _Partition:
        return self._by_partition.get(partition, _NOTHING)

    def _add(self, *records: Record) -> None:
        if not records:
            return
        with output_errors(f"{self.path}: cannot be written"):
            self._journal.add(*records)
        for record in records:
            self._apply(record, 0)
        self._shorten()

    def _apply(self, record: Record, number: int) -> None:
        self._records += 1
        match record:
            case {"partition": str(name), "offset": int(offset), "watermark_us": int(us)}:
                self._by_partition.setdefault(name, _Partition()).raise_watermark(offset, us)
            case {"partition": str(name), "offset": int(start), "stop": int(stop), "clock_us": int(us)}:
                clock = ClockDecision(start, stop, us)
                self._by_partition.setdefault(name, _Partition()).clocks.append(clock)
            case {"partition": str(name), "offset": int(start), "stop": int(stop), "reason": str(reason)}:
                self._by_partition.setdefault(name, _Partition()).refused.append(Refused(start, stop, reason))
            case {"schema": int(schema), "text": str(text)}:
                self._schemas[schema] = text
            case _:
                raise ValueError(f"line {number}: not a record of a decision about a topic")

    def _shorten(self) -> None:
        """Rewrite a journal that has become long, without decisions about rows that no shard reads again."""
        if self._records <= self._longest:
            return
        for name, offset in self.read_offsets().items():
            if name in self._by_partition:
                self._by_partition[name].forget(offset)
        records: list[Record] = [{"schema": number, "text": text} for number, text in self._schemas.items()]
        records += [record for name, found in self._by_partition.items() for record in found.records(name)]
        with output_errors(f"{self.path}: cannot be written"):
            self._journal.replace(records)
        self._records, self._longest = len(records), max(LONGEST, 2 * len(records))


_NOTHING: Final = _Partition()


def _clock_record(name: str, one: ClockDecision) -> Record:
    return {"partition": name, "offset": one.start, "stop": one.stop, "clock_us": one.clock_us}


def _refusal_record(name: str, one: Refused) -> Record:
    return {"partition": name, "offset": one.start, "stop": one.stop, "reason": one.reason}
