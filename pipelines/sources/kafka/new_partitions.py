"""Find partitions that were added to a topic while a job reads it, and announce them to the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.sources.base import Position, Positions, followed, furthest_us
from pipelines.sources.kafka.consumer import TopicConsumer
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.kafka.topic import KafkaTopic
from schemas.errors import DataError


def new_partitions(source: KafkaTopic, consumer: TopicConsumer, places: Positions) -> list[int]:
    """Return the numbers of a topic's partitions that ``places`` lacks; [] if they cannot be requested."""
    with suppress(DataError):  # without an answer, the next check finds the new partitions
        return [number for number in consumer.partitions() if source.name(number) not in places]
    return []


def announce(
    numbers: list[int], source: KafkaTopic, decisions: Decisions, places: dict[str, Position]
) -> Iterator[Batch]:
    """Add new partitions to ``places``, and yield for each a batch that announces it to the shards.

    Windows that closed before the announcement stay closed. A shard applies later batches only after it has
    received the announcements, see `Batch.partitions`.

    Raises:
        OutputError: the watermark at which a partition begins cannot be stored.
    """
    for number in numbers:
        name, shard = source.name(number), source.shard_of(number)
        slowest = furthest_us(places, shard)
        if slowest is not None:
            decisions.raise_watermark(name, 0, slowest)
        known = followed(places, shard)
        yield replace(empty_batch(name, 0), watermark_us=slowest, partitions=known, shard=shard)
        places[name] = Position(0, slowest, shard=shard)
