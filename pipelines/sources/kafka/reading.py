"""A topic as it is read: what a poll brings as batches, idle partitions, new ones.

**An idle partition.** Nothing came for `idle_s`, it was read to its end, and the broker, asked anew, says
so. Its time then goes on with the others: to the least watermark of those that are not idle; where all are,
to the greatest of all. Not to the wall clock, which knows nothing of the event time of a topic that
somebody replays. So without any rows time stands still, and what waits, waits. A row that comes later and
is older is late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from forecaster.shard import Batch
from forecaster.sharding import no_batch
from forecaster.windows import last_closed
from pipelines.sources.base import Place, Places, Stride
from pipelines.sources.files import validated
from pipelines.sources.kafka.carried import Carried
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.cuts import Taken, batches
from pipelines.sources.messages import decoded
from schemas import observations, quarantine

if TYPE_CHECKING:
    from pipelines.sources.kafka.source import KafkaSource

_POLL_S = 0.02
_LOOKED_EVERY_S = 0.5
_SHOWN_EVERY_S = 5.0
_NO_TIME_MS = -1  # of a message of brokers that gave none


@dataclass
class _Quiet:
    """Since when nothing came of a partition, and whether it was read to its end."""

    since_s: float
    at_end: bool = False


class Reading:
    """A topic as far as it was read in this process."""

    def __init__(self, source: KafkaSource, clock: Callable[[], float] = time.monotonic) -> None:
        self.source, self.clock = source, clock
        self.decode = source.decoder.decoder(source.broker.registry_user)
        self.consumer = source.opens(source.broker, source.topic, source.group)
        self.carried = Carried(source.carried)
        self.places: dict[str, Place] | None = None
        self.numbers: dict[str, int] = {}
        self.quiet: dict[str, _Quiet] = {}
        self.looked_s = self.listed_s = self.shown_s = clock()

    def close(self) -> None:
        """Ends the consumer."""
        self.consumer.close()

    def step(self, places: Places) -> Stride:
        """What comes next; waits a moment for it."""
        if places != self.places:
            self._seek(places)
        now = dict(places)
        try:
            made = [*self._polled(now)]
            made += self._looked(now)
        except BaseException:
            self.places = None  # asked again, begin again
            raise
        self.places = now
        return Stride(tuple(made), now)

    def _seek(self, places: Places) -> None:
        prefix = len(self.source.topic) + 1
        self.numbers = {name: int(name[prefix:]) for name in places}
        self.consumer.read_from({self.numbers[name]: place.offset for name, place in places.items()})
        self.quiet = {name: _Quiet(self.clock()) for name in places}

    def _polled(self, places: dict[str, Place]) -> Iterator[Batch]:
        source = self.source
        for number, polled in self.consumer.poll(source.poll_rows, _POLL_S).items():
            name = source.name(number)
            place, quiet = places[name], self.quiet[name]
            quiet.at_end = polled.end is not None
            if polled.offsets:
                quiet.since_s = self.clock()
            taken = self._taken(number, polled)
            if taken.stop > place.offset:
                made, places[name] = batches(
                    name, place, taken, source.freq_s, source.lateness_s, self.carried.before(name)
                )
                yield from made

    def _taken(self, number: int, polled: Polled) -> Taken:
        """What came of a partition as validated rows."""
        source = self.source
        # an end may lie behind marks of transactions, which have offsets and hold nothing
        stop = max(polled.offsets[-1] + 1 if polled.offsets else 0, polled.end or 0)
        if not polled.offsets:
            return Taken(stop, _NO_ROWS, _NONE_REJECTED, np.zeros(0, np.int64), 0.0)
        raw = decoded(self.decode, polled.messages)
        message = raw["message"]
        offset = pl.Series("offset", polled.offsets, pl.Int64).gather(message)
        came_ms = pl.Series(polled.came_ms, dtype=pl.Int64).gather(message)
        came_us = came_ms.set(came_ms == _NO_TIME_MS, _LAST_MS) * 1000
        row = pl.int_range(len(raw), eager=True) - message.search_sorted(message, "left").cast(pl.Int64) + 1
        raw = raw.with_columns(row.alias("row"), pl.int_range(len(raw)).alias("place"))
        inside, left_out = source.input.within(raw)
        outside = (
            offset.filter(~raw["place"].is_in(inside["place"].implode())) if left_out else offset.clear()
        )
        kept = inside["place"]
        rows, rejected = validated(
            inside, offset.gather(kept), came_us.gather(kept), source.input.max_future_s
        )
        told = pl.format(f"{source.topic}/{number}/{{}}", pl.col("offset")).alias("file")
        return Taken(
            stop,
            rows,
            rejected.with_columns(told) if len(rejected) else rejected,
            outside.to_numpy(),
            max(polled.came_ms[-1], 0) / 1000,
        )

    def _looked(self, places: dict[str, Place]) -> Iterator[Batch]:
        """What follows from looks that are not for every poll."""
        now_s = self.clock()
        if now_s - self.shown_s >= _SHOWN_EVERY_S:
            self.shown_s = now_s
            self.consumer.show({self.numbers[name]: place.offset for name, place in places.items()})
        if now_s - self.listed_s >= self.source.look_s:
            self.listed_s = now_s
            yield from self._new(places)
        if now_s - self.looked_s >= _LOOKED_EVERY_S:
            self.looked_s = now_s
            yield from self._carried_on(places, now_s)

    def _new(self, places: dict[str, Place]) -> Iterator[Batch]:
        """Announces partitions that came up; what closed without them stays closed."""
        new = [n for n in self.consumer.partitions() if self.source.name(n) not in places]
        if not new:
            return
        slowest = _least([place.watermark_us for place in places.values()])
        for number in new:
            name = self.source.name(number)
            if slowest is not None:
                self.carried.add(name, 0, slowest)
            places[name] = Place(0, slowest)
            yield replace(no_batch(name, 0), watermark_us=slowest)
        self._seek(places)

    def _carried_on(self, places: dict[str, Place], now_s: float) -> Iterator[Batch]:
        """Carries the time of idle partitions on; see the module."""
        idle = [
            name
            for name, quiet in self.quiet.items()
            if quiet.at_end and now_s - quiet.since_s >= self.source.idle_s
        ]
        busy = [place.watermark_us for name, place in places.items() if name not in idle]
        known = [place.watermark_us for place in places.values() if place.watermark_us is not None]
        until_us = _least(busy) if busy else max(known, default=None)
        if until_us is None:
            return
        for name in idle:
            place = places[name]
            behind = place.watermark_us is None or self._closed(place.watermark_us) < self._closed(until_us)
            if behind and self.consumer.range_of(self.numbers[name])[1] <= place.offset:
                self.carried.add(name, place.offset, until_us)
                places[name] = place._replace(watermark_us=until_us)
                yield replace(no_batch(name, place.offset), watermark_us=until_us)

    def _closed(self, watermark_us: int) -> int:
        return last_closed(watermark_us, self.source.freq_s)


def _least(watermarks_us: list[int | None]) -> int | None:
    known = [us for us in watermarks_us if us is not None]
    return min(known) if known and len(known) == len(watermarks_us) else None


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)
_LAST_MS = 1 << 52
