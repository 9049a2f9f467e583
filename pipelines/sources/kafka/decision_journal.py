"""What the reading of a topic decided by clocks and by other servers: written down before anybody acts on it.

A re-read would not decide alike: when a partition is idle, which row lies in the future and whether a schema
registry answers depends on the moment. So each such decision is a record on disk, as part of the log::

    partition, offset, watermark_us     from this offset on, other partitions had carried the watermark so far
    partition, offset, stop, clock_us   from this offset on, rows are judged by this clock, see `Judged`
    partition, offset, stop, reason     the schema of these messages was unknown
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
from pipelines.storage import Journal, Location
from schemas.errors import DataError, OutputError

LONGEST = 10_000
"""Records after which the journal is written anew, without those that no re-read needs."""

Offsets = NDArray[np.int64]
Record = Mapping[str, Any]


class Refused(NamedTuple):
    """Messages at offsets ``[start, stop)`` that were rejected, since their schema was unknown."""

    start: int
    stop: int
    reason: str


class Judged(NamedTuple):
    """By which clock rows from ``start`` on are judged; for those before ``stop`` it is settled."""

    start: int
    stop: int
    clock_us: int


@dataclass
class _Partition:
    """The decisions on one partition, each list by offset."""

    offsets: list[int] = field(default_factory=list)  # from which on `carried` holds
    carried: list[int] = field(default_factory=list)  # watermarks, rising
    judged: list[Judged] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def carry(self, offset: int, watermark_us: int) -> None:
        offsets, carried = self.offsets, self.carried
        place = bisect_right(offsets, offset)
        if place and offsets[place - 1] == offset:
            carried[place - 1] = max(carried[place - 1], watermark_us)
        else:
            offsets.insert(place, offset)
            carried.insert(place, watermark_us)
        for later in range(max(place, 1), len(carried)):
            carried[later] = max(carried[later], carried[later - 1])

    def forget(self, before: int) -> None:
        """Drop what says nothing of the rows from offset ``before`` on."""
        kept = max(bisect_right(self.offsets, before) - 1, 0)
        del self.offsets[:kept], self.carried[:kept]
        while len(self.judged) > 1 and self.judged[1].start <= before:
            del self.judged[0]
        self.refused = [one for one in self.refused if one.stop > before]

    def records(self, name: str) -> Iterator[Record]:
        for offset, us in zip(self.offsets, self.carried, strict=True):
            yield {"partition": name, "offset": offset, "watermark_us": us}
        yield from (_judged(name, one) for one in self.judged)
        yield from (_refused(name, one) for one in self.refused)


class Decisions:
    """The decisions of a job so far.

    Args:
        path: the file; it need not be there yet.
        reached: the least offset of each partition from which any shard may have to read again; asked when
            the file has become long.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Location, reached: Callable[[], Mapping[str, int]] = dict) -> None:
        self.path, self.reached = path, reached
        self._by: dict[str, _Partition] = {}
        self._schemas: dict[int, str] = {}
        self._records, self._longest = 0, LONGEST
        try:
            self._journal = Journal(path)  # a line that broke off was acted on by nobody
            for number, record in self._journal.records():
                self._take(record, number)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}): put it back as it was") from None
        self._shorten()

    def carry(self, partition: str, offset: int, watermark_us: int) -> None:
        """Before the row at ``offset``, the watermark of ``partition`` is ``watermark_us`` at least.

        Raises:
            OutputError: it cannot be written down, as from every method that adds.
        """
        self._add({"partition": partition, "offset": offset, "watermark_us": watermark_us})

    def judge(self, judged: Mapping[str, Judged]) -> None:
        """Rows of partitions are judged by these clocks."""
        self._add(*(_judged(name, one) for name, one in judged.items()))

    def refuse(self, refused: Mapping[str, list[Refused]]) -> None:
        """Messages of partitions are rejected, since their schemas are unknown."""
        self._add(*(_refused(name, one) for name, found in refused.items() for one in found))

    def keep_schema(self, number: int, text: str) -> None:
        """Keep the text of a registry's schema."""
        self._add({"schema": number, "text": text})

    def schema(self, number: int) -> str | None:
        """The text of a registry's schema; None where it was never fetched."""
        return self._schemas.get(number)

    def before(self, partition: str) -> Callable[[Offsets], Offsets]:
        """For offsets ``[n]`` how far the watermark was carried before each; `NEVER` if it was not."""
        found = self._of(partition)
        values, at = np.array([NEVER, *found.carried], np.int64), np.array(found.offsets, np.int64)
        return lambda asked: values[np.searchsorted(at, asked, side="right")]

    def at(self, partition: str, offset: int, watermark_us: int | None) -> int | None:
        """The watermark before the row at ``offset``, where without this it were ``watermark_us``."""
        us = int(self.before(partition)(np.array([offset], np.int64))[0])
        if us == NEVER:
            return watermark_us
        return us if watermark_us is None else max(us, watermark_us)

    def clock_us(self, partition: str, offsets: Offsets) -> Offsets:
        """The clock by which the rows at ``offsets [n]`` are judged; `NEVER` before the first record."""
        judged = self._of(partition).judged
        values = np.array([NEVER, *(one.clock_us for one in judged)], np.int64)
        return values[
            np.searchsorted(np.array([one.start for one in judged], np.int64), offsets, side="right")
        ]

    def settled(self, partition: str) -> int:
        """The offset before which the clocks of all rows are settled."""
        judged = self._of(partition).judged
        return judged[-1].stop if judged else 0

    def refused(self, partition: str) -> list[Refused]:
        """The messages that were rejected, since their schemas were unknown."""
        return self._of(partition).refused

    def _of(self, partition: str) -> _Partition:
        return self._by.get(partition, _NOTHING)

    def _add(self, *records: Record) -> None:
        if not records:
            return
        try:
            self._journal.add(*records)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        for record in records:
            self._take(record, 0)
        self._shorten()

    def _take(self, record: Record, number: int) -> None:
        self._records += 1
        match record:
            case {"partition": str(name), "offset": int(offset), "watermark_us": int(us)}:
                self._by.setdefault(name, _Partition()).carry(offset, us)
            case {"partition": str(name), "offset": int(start), "stop": int(stop), "clock_us": int(us)}:
                self._by.setdefault(name, _Partition()).judged.append(Judged(start, stop, us))
            case {"partition": str(name), "offset": int(start), "stop": int(stop), "reason": str(reason)}:
                self._by.setdefault(name, _Partition()).refused.append(Refused(start, stop, reason))
            case {"schema": int(schema), "text": str(text)}:
                self._schemas[schema] = text
            case _:
                raise ValueError(f"line {number}: it is no decision of a topic")

    def _shorten(self) -> None:
        """Write the journal anew where it is long, without what no re-read needs."""
        if self._records <= self._longest:
            return
        for name, offset in self.reached().items():
            if name in self._by:
                self._by[name].forget(offset)
        records: list[Record] = [{"schema": number, "text": text} for number, text in self._schemas.items()]
        records += [record for name, found in self._by.items() for record in found.records(name)]
        try:
            self._journal.replace(records)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._records, self._longest = len(records), max(LONGEST, 2 * len(records))


_NOTHING: Final = _Partition()


def _judged(name: str, one: Judged) -> Record:
    return {"partition": name, "offset": one.start, "stop": one.stop, "clock_us": one.clock_us}


def _refused(name: str, one: Refused) -> Record:
    return {"partition": name, "offset": one.start, "stop": one.stop, "reason": one.reason}
