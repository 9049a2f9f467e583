"""What a job is told of a topic that it reads."""

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


class Opens(Protocol):
    """What opens a consumer: `TopicConsumer`, or what stands for it in a test."""

    def __call__(self, broker: Broker, topic: str, group: str) -> TopicConsumer:
        """A consumer of ``topic``."""


def _nothing_known(folder: Location) -> dict[str, int]:
    return {}


@dataclass(frozen=True)
class KafkaTopic:
    """A topic whose messages are rows, and how a job reads them.

    Attributes:
        broker: where it is.
        topic: its name.
        decoder: what its messages are.
        input: which rows are used; what it says of files is of no matter.
        freq: length of a window.
        folder: where it is written down what idle partitions were carried to: the state table's.
        lateness_s: how far the watermark stays behind the newest row.
        start: ``earliest``, ``latest``, or a time: where partitions begin that no state table knows of.
        idle_s: seconds without a row after which a partition no longer holds the others back.
        group: name under which the broker shows people how far we are.
        poll_rows: most messages taken at once.
        look_s: seconds between looks for new partitions.
        opens: what makes a consumer; another one in tests.
        keyed_shards: number of shards among which the partitions are dealt, of a topic that is keyed by
            series: partition ``n`` to shard ``n % keyed_shards``, so that new ones move none. None where
            every shard follows all.
        homes: reads the shard of each series from ``folder``; asked where the topic is keyed.
        reached: reads from ``folder`` the least offset of each partition that a shard stands at.
        wall: seconds since 1970; another clock in tests.
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
    opens: Opens = TopicConsumer
    keyed_shards: int | None = None
    homes: Callable[[Location], dict[str, int]] = _nothing_known
    reached: Callable[[Location], Mapping[str, int]] = _nothing_known
    wall: Callable[[], float] = time.time

    def shard_of(self, partition: int) -> int | None:
        """The only shard that follows a partition; None where all do."""
        return None if self.keyed_shards is None else partition % self.keyed_shards

    def decisions(self) -> Decisions:
        """What the job decided so far; the file lies with the state table.

        Raises:
            DataError: it cannot be read.
        """
        return Decisions(self.folder / "kafka.jsonl", partial(self.reached, self.folder))

    def name(self, partition: int) -> str:
        """The name of a partition, as in the broker's own folders."""
        return f"{self.topic}-{partition}"

    def number(self, name: str) -> int:
        """The inverse of `name`."""
        return int(name[len(self.topic) + 1 :])
