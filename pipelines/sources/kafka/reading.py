"""Read the partitions of a topic in steps, with one consumer.

A step polls messages and turns them into batches. From time to time it also commits offsets, announces new
partitions (see `pipelines.sources.kafka.new_partitions`) and advances the watermarks of idle partitions (see
`pipelines.sources.kafka.idle_partitions`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.sources.base import Position, Positions, Step, followed
from pipelines.sources.kafka.batching import batches
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.kafka.idle_partitions import IdlePartitions
from pipelines.sources.kafka.keyed_series import SeriesShards
from pipelines.sources.kafka.new_partitions import announce, new_partitions
from pipelines.sources.kafka.poll_validation import PollValidation
from pipelines.sources.kafka.topic import KafkaTopic
from pipelines.sources.messages import RegistryAway

_POLL_S, _REGISTRY_WAIT_S = 0.02, 0.1
_LOOK_EVERY_S = 0.5
_COMMIT_EVERY_S = 5.0


class Reading:
    """Reads a topic with one consumer.

    In one process, all calls of `KafkaSource.step` for the same source use the same `Reading`.

    Args:
        source: the topic and its settings.
        clock: returns seconds of a clock that never goes back; tests set another one.

    Raises:
        ConfigError: the decoder cannot be made, or the client rejects an option.
        DataError: the topic is keyed, and the shards of its series cannot be read from the state table.
    """

    def __init__(self, source: KafkaTopic, clock: Callable[[], float] = time.monotonic) -> None:
        self.source, self.clock = source, clock
        self.decode = source.decoder.decoder(source.broker.registry_user, self)
        self.consumer = source.opens(source.broker, source.topic, source.group)
        is_keyed = source.keyed_shards is not None
        self.series_shards = SeriesShards(source.read_series_shards(source.folder) if is_keyed else {})
        self.idle = IdlePartitions(source, self.consumer, clock)
        self.decisions: Decisions
        self.held: Mapping[int, Polled] | None = None
        self.places: dict[str, Position] | None = None
        self.numbers: dict[str, int] = {}
        self.looked_s = self.listed_s = self.committed_s = clock()

    def close(self) -> None:
        """Close the consumer of the topic."""
        self.consumer.close()

    def step(self, places: Positions) -> Step[Positions]:
        """Return the next batches from the positions ``places`` on; wait a limited time for messages."""
        if places != self.places:
            self._seek(places)
        now = dict(places)
        try:
            made = [*self._poll(now)]
            made += self._periodic(now, max((batch.arrived_s for batch in made), default=None))
        except BaseException:
            self.places = None  # the polled messages are lost, so make the next step read them again
            raise
        self.places = now
        return Step(tuple(made), now, _REGISTRY_WAIT_S if self.held else 0.0)

    def _seek(self, places: Positions) -> None:
        self.numbers = {name: self.source.number(name) for name in places}
        # Read the journal anew, because the process that began this run may have added decisions.
        self.decisions = self.source.decisions()
        self.held = None
        self.consumer.read_from({self.numbers[name]: place.offset for name, place in places.items()})
        self.idle.restart(places)

    def schema(self, number: int) -> str | None:
        """Return the text of the schema with the id ``number`` from the journal; None if it is not stored."""
        return self.decisions.schema(number)

    def keep_schema(self, number: int, text: str) -> None:
        """Store the text of the schema with the id ``number`` in the decision journal; see `Kept`."""
        self.decisions.keep_schema(number, text)

    def _poll(self, places: dict[str, Position]) -> Iterator[Batch]:
        source = self.source
        polled = self.held or self.consumer.poll(source.poll_rows, _POLL_S)
        try:
            found = [*PollValidation(source, self.decode, self.decisions).by_partition(polled)]
        except RegistryAway:  # keep the messages: the registry may answer in the next step
            self.held = polled
            return
        self.held = None
        for number, taken in found:
            name = source.name(number)
            place = places[name]
            self.idle.record_poll(name, polled[number])
            self.series_shards.check(f"{source.topic}/{number}", taken.rows["series_id"], place.shard)
            if taken.stop > place.offset:
                made, places[name] = batches(
                    name, place, taken, source.freq, source.lateness_s, self.decisions.before(name)
                )
                yield from (_addressed(batch, places) for batch in made)

    def _periodic(self, places: dict[str, Position], arrived_at_s: float | None) -> Iterator[Batch]:
        """Commit offsets, announce new partitions, and advance idle partitions, each at its own interval.

        Idle partitions are also advanced after each poll that returned batches.

        ``arrived_at_s`` is the greatest timestamp (seconds since 1970) of the polled batches; None without
        batches.
        """
        now_s = self.clock()
        if now_s - self.committed_s >= _COMMIT_EVERY_S:
            self.committed_s = now_s
            self.consumer.show({self.numbers[name]: place.offset for name, place in places.items()})
        if now_s - self.listed_s >= self.source.look_s:
            self.listed_s = now_s
            if new := new_partitions(self.source, self.consumer, places):
                yield from announce(new, self.source, self.decisions, places)
                self._seek(places)
        if arrived_at_s is not None or now_s - self.looked_s >= _LOOK_EVERY_S:
            self.looked_s = now_s
            yield from self._advance_idle(places, now_s, arrived_at_s or 0.0)

    def _advance_idle(
        self, places: dict[str, Position], now_s: float, arrived_at_s: float
    ) -> Iterator[Batch]:
        for name, watermark_us in self.idle.advances(places, now_s):
            offset = places[name].offset
            self.decisions.raise_watermark(name, offset, watermark_us)
            places[name] = places[name]._replace(watermark_us=watermark_us)
            batch = replace(empty_batch(name, offset), watermark_us=watermark_us, arrived_s=arrived_at_s)
            yield _addressed(batch, places)


def _addressed(batch: Batch, places: Positions) -> Batch:
    """Return a batch with its partition's shard, and the number of partitions that this shard follows."""
    shard = places[batch.partition].shard
    return replace(batch, partitions=followed(places, shard), shard=shard)
