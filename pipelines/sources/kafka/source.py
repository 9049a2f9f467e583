"""Read a Kafka topic as a log: find the offsets at which reading begins, and read the topic in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipelines.sources.base import Position, Positions, Step, furthest_us, opened
from pipelines.sources.kafka.consumer import TopicConsumer
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.kafka.topic import KafkaTopic
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True)
class KafkaSource(KafkaTopic):
    """Reads all partitions of a topic as a `Log`.

    The log has the broker's offsets. The watermark of a partition is the time of its newest row minus the
    lateness. A watermark is computed before each row, so that it does not depend on how many messages a poll
    returns (see `pipelines.sources.kafka.batching`). The watermark of an idle partition advances with the
    other partitions (see `pipelines.sources.kafka.idle_partitions`).
    """

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time: True for a topic; see `Source`."""
        return True

    def begin(self, reached: Positions) -> Positions:
        """Return, for each partition of the topic, the position from which the partition is read.

        If a job resumes, a partition that was added to the topic since begins at its first row.

        Raises:
            DataError: no broker answers, the broker refuses the connection, the topic does not exist, or the
                broker no longer has the rows from which the job resumes.
            ConfigError: the decoder cannot be made, the client rejects an option, or a keyed topic has fewer
                partitions than the job has shards.
        """
        self.decoder.decoder(self.broker.registry_user)
        consumer = self.opens(self.broker, self.topic, self.group)
        try:
            ranges = {p: consumer.range_of(p) for p in consumer.partitions()}
            resumed = {self.name(p): reached[self.name(p)] for p in ranges if self.name(p) in reached}
            self._check_count(len(ranges))
            for p, (low, high) in ranges.items():
                self._check_offset(p, resumed.get(self.name(p)), low, high)
            if resumed:
                return self._resume(resumed, ranges)
            starts = self._starts(consumer, ranges)
            return {self.name(p): Position(offset, shard=self.shard_of(p)) for p, offset in starts.items()}
        finally:
            consumer.close()

    def step(self, places: Positions) -> Step[Positions]:
        """Return the next batches of the topic from ``places`` on; never None, because a topic has no end.

        Raises:
            DataError: the topic or its next rows no longer exist, or the broker refuses the request.
            OutputError: the decision journal cannot be written.
        """
        return opened(self, Reading).step(places)

    def _starts(self, consumer: TopicConsumer, ranges: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Return, for each partition, the offset at which a job begins to read if it does not resume."""
        if isinstance(self.start, datetime):
            return consumer.offsets_at_time([*ranges], self.start)
        return {p: high if self.start == "latest" else low for p, (low, high) in ranges.items()}

    def _resume(self, resumed: Positions, ranges: Mapping[int, tuple[int, int]]) -> Positions:
        decisions = self.decisions()
        resumed = {
            name: place._replace(shard=self.shard_of(self.number(name))) for name, place in resumed.items()
        }
        furthest = {
            name: place._replace(furthest_watermark_us=decisions.at(name, place.offset, place.furthest_us))
            for name, place in resumed.items()
        }
        places = {}
        for p, (low, _) in ranges.items():
            name = self.name(p)
            place = resumed.get(name, Position(low, shard=self.shard_of(p)))
            if name not in resumed and (slowest := furthest_us(furthest, place.shard)) is not None:
                # A new partition begins with the smallest watermark of the resumed partitions that its shard
                # follows, so that closed windows stay closed.
                decisions.raise_watermark(name, low, slowest)
            us = decisions.at(name, place.offset, place.watermark_us)
            places[name] = place._replace(watermark_us=us)
        return places

    def _check_count(self, partitions: int) -> None:
        if self.keyed_shards is not None and partitions < self.keyed_shards:
            raise ConfigError(
                f"jobs.shards = {self.keyed_shards}, but {self.topic!r} has {partitions} partitions: with "
                "kafka.keyed = true each shard needs a partition, so set no more shards than partitions"
            )

    def _check_offset(self, partition: int, place: Position | None, low: int, high: int) -> None:
        if place is not None and not low <= place.offset <= high:
            raise DataError(
                f"{self.topic}/{partition}: the broker has the offsets {low:,} to {high:,}, but the job "
                f"resumes from {place.offset:,}: start again in another output folder, with --state and "
                "the folder state of this output folder"
            )
