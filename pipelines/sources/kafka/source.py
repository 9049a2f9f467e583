"""A topic as a log: where the reading of each partition begins, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipelines.sources.base import Place, Places, Stride, furthest_us
from pipelines.sources.kafka.consumer import TopicConsumer
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.kafka.topic import KafkaTopic
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True)
class KafkaSource(KafkaTopic):
    """A topic as a `Log`, read by one reader for all of its partitions.

    The broker's offsets are the log's. A partition's watermark is its newest row less the lateness, before
    each row anew, whatever a poll brings at once (see `pipelines.sources.kafka.batching`). One that is idle,
    and
    the broker confirms it, is carried on by the others (see `pipelines.sources.kafka.reading`).
    """

    @property
    def is_paced(self) -> bool:
        """See `Source`."""
        return True

    def begin(self, reached: Places) -> Places:
        """See `Log`. A partition that came up since then begins at its first row.

        Raises:
            DataError: no broker answers, it refuses us, or has no such topic; or it no longer has the rows to
                go on from.
            ConfigError: the decoder cannot be had, or an option cannot be; or a keyed topic has fewer
                partitions than the job has shards.
        """
        self.decoder.decoder(self.broker.registry_user)
        consumer = self.opens(self.broker, self.topic, self.group)
        try:
            ranges = {p: consumer.range_of(p) for p in consumer.partitions()}
            mine = {self.name(p): reached[self.name(p)] for p in ranges if self.name(p) in reached}
            self._check_count(len(ranges))
            for p, (low, high) in ranges.items():
                self._check(p, mine.get(self.name(p)), low, high)
            if mine:
                return self._go_on(mine, ranges)
            starts = self._starts(consumer, ranges)
            return {self.name(p): Place(offset, shard=self.shard_of(p)) for p, offset in starts.items()}
        finally:
            consumer.close()

    def step(self, places: Places) -> Stride:
        """See `Log`; a topic has no end.

        Raises:
            DataError: the topic, or what is to be read of it, is gone, or we are refused.
            OutputError: what an idle partition is carried to cannot be written down.
        """
        return _reading_of(self).step(places)

    def _starts(self, consumer: TopicConsumer, ranges: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """The first offset of each partition to be read where there is nothing to go on from."""
        if isinstance(self.start, datetime):
            return consumer.at_time([*ranges], self.start)
        return {p: high if self.start == "latest" else low for p, (low, high) in ranges.items()}

    def _go_on(self, mine: Places, ranges: Mapping[int, tuple[int, int]]) -> Places:
        decisions = self.decisions()
        mine = {name: place._replace(shard=self.shard_of(self.number(name))) for name, place in mine.items()}
        ahead = {
            name: place._replace(ahead_us=decisions.at(name, place.offset, place.furthest_us))
            for name, place in mine.items()
        }
        places = {}
        for p, (low, _) in ranges.items():
            name = self.name(p)
            place = mine.get(name, Place(low, shard=self.shard_of(p)))
            if name not in mine and (slowest := furthest_us(ahead, place.shard)) is not None:
                decisions.carry(name, low, slowest)  # what a shard closed before it was there stays closed
            us = decisions.at(name, place.offset, place.watermark_us)
            places[name] = place._replace(watermark_us=us)
        return places

    def _check_count(self, partitions: int) -> None:
        if self.keyed_shards is not None and partitions < self.keyed_shards:
            raise ConfigError(
                f"jobs.shards = {self.keyed_shards}, {self.topic!r} has {partitions} partitions: "
                "with kafka.keyed = true a shard follows partitions of its own, so set no more shards"
            )

    def _check(self, partition: int, place: Place | None, low: int, high: int) -> None:
        if place is not None and not low <= place.offset <= high:
            raise DataError(
                f"{self.topic}/{partition}: the broker has the offsets {low:,} to {high:,}, and we go on "
                f"from {place.offset:,}: begin anew in another output folder, with --state from this one"
            )


_open: dict[KafkaSource, Reading] = {}


def _reading_of(source: KafkaSource) -> Reading:
    """One consumer serves many steps."""
    if source not in _open:
        forget()
        _open[source] = Reading(source)
    return _open[source]


def forget() -> None:
    """Ends the consumer of an earlier job in this process."""
    while _open:
        _open.popitem()[1].close()
