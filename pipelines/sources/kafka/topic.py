"""Define the settings by which a job reads a Kafka topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from forecaster.time.frequency import Frequency
from pipelines.settings.kafka import Broker
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka.consumer import TopicConsumer
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.messages import DecoderSpec
from pipelines.storage import Location


class OpenConsumer(Protocol):
    """A function that opens a consumer: `TopicConsumer`, or a replacement in tests."""

    def __call__(self, broker: Broker, topic: str, group: str) -> TopicConsumer:
        """Open and return a consumer of ``topic`` that commits its offsets to ``group``."""


def _no_entries(folder: Location) -> dict[str, int]:
    return {}


@dataclass(frozen=True)
class KafkaTopic:
    """A topic whose messages hold rows, and the settings by which a job reads it.

    Attributes:
        broker: address and options of the broker.
        topic: name of the topic.
        decoder: the format of the messages.
        input: the time bounds and the format of times; its settings for files have no effect.
        freq: length of a window.
        folder: folder of the state table, in which the decision journal is stored.
        lateness_s: how far the watermark stays behind the newest row.
        start: ``earliest``, ``latest`` or a time: where the reading begins if no state table has offsets.
        idle_s: seconds without a row after which a partition is idle; windows then close without its rows.
        group: consumer group to which the offsets are committed, for display only.
        poll_rows: maximum number of messages in one poll.
        look_s: seconds between two checks for new partitions.
        opens: opens a consumer; tests set another function.
        keyed_shards: number of shards of a topic that is keyed by series. Only shard ``n % keyed_shards``
            follows partition ``n``, so new partitions do not move existing ones to other shards. None if
            every shard follows all partitions.
        read_series_shards: reads the shard of each series from ``folder``; called only if the topic is keyed.
        read_offsets: reads from ``folder`` the least offset of each partition from which a shard resumes.
        wall: returns the wall clock, in seconds since 1970; tests set another one.
    """

    broker: Broker
    topic: str
    decoder: DecoderSpec
    input: Input
    freq: Frequency
    folder: Location
    lateness_s: int = 0
    start: str | datetime = "earliest"
    idle_s: float = 30.0
    group: str = "statecast"
    poll_rows: int = 300_000
    look_s: float = 30.0
    opens: OpenConsumer = TopicConsumer
    keyed_shards: int | None = None
    read_series_shards: Callable[[Location], dict[str, int]] = _no_entries
    read_offsets: Callable[[Location], Mapping[str, int]] = _no_entries
    wall: Callable[[], float] = time.time

    def shard_of(self, partition: int) -> int | None:
        """Return the number of the only shard that follows a partition; None if every shard follows it."""
        return None if self.keyed_shards is None else partition % self.keyed_shards

    def decisions(self) -> Decisions:
        """Read the decision journal of the topic from the folder of the state table, and return it.

        Raises:
            DataError: the journal cannot be read.
        """
        return Decisions(self.folder / "kafka.jsonl", partial(self.read_offsets, self.folder))

    def name(self, partition: int) -> str:
        """Return the name of a partition, which is also the name of its folder on the broker."""
        return f"{self.topic}-{partition}"

    def number(self, name: str) -> int:
        """Return the number of the partition with the name ``name``, such as 3 for ``readings-3``."""
        return int(name[len(self.topic) + 1 :])
