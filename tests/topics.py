"""A Kafka topic in memory: tests set how many messages have arrived; polls return a random number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from pipelines.sources.kafka.consumer import Polled

CAME_MS = 1_400_000_000_000  # by default, every message arrives at this time in May 2014


@dataclass(eq=False)  # a topic equals only itself, whatever its messages are
class Topic:
    """The messages of a topic by partition, and how many of them have arrived so far.

    Attributes:
        partitions: the values of all messages by partition, including messages that arrive later.
        there: number of arrived messages by partition; a partition without a number does not exist yet.
        chance: random generator for the number of messages in each poll.
        came_ms: the broker's time of each message, in ms since 1970; by default `CAME_MS` for all.
    """

    partitions: dict[int, list[bytes | None]]
    there: dict[int, int] = field(default_factory=dict)
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    came_ms: dict[int, list[int]] = field(default_factory=dict)

    def fill(self) -> None:
        """Mark all messages of all partitions as arrived."""
        self.there = {number: len(values) for number, values in self.partitions.items()}

    def __call__(self, broker: Any, topic: str, group: str) -> Any:
        """Return a fake consumer of this topic, and ignore the arguments.

        Tests use a topic in place of an `OpenConsumer`, which is called with these arguments.
        """
        return Consumer(self)


@dataclass(eq=False)
class Consumer:
    """A fake consumer of a `Topic`, with the methods of `TopicConsumer` except ``offsets_at_time``."""

    topic: Topic
    at: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    shown: dict[int, int] = field(default_factory=dict)
    closed: bool = False
    troubles: int = 0

    def partitions(self) -> list[int]:
        return sorted(self.topic.there)

    def range_of(self, partition: int) -> tuple[int, int]:
        return 0, self.topic.there[partition]

    def read_from(self, offsets: Mapping[int, int]) -> None:
        self.at, self.ended = dict(offsets), set()

    def poll(self, most: int, wait_s: float) -> dict[int, Polled]:
        found: dict[int, Polled] = {}
        for number, start in self.at.items():
            end = self.topic.there[number]
            stop = min(end, start + int(self.topic.chance.integers(0, most + 1)))
            if stop > start:
                values = self.topic.partitions[number][start:stop]
                came_ms = self.topic.came_ms.get(number, [CAME_MS] * end)[start:stop]
                found[number] = Polled(list(values), [None] * len(values), [*range(start, stop)], came_ms)
                self.at[number] = stop
                self.ended.discard(number)
            elif start == end and number not in self.ended:
                found[number] = Polled(end=end)
                self.ended.add(number)
        return found

    def show(self, offsets: Mapping[int, int]) -> None:
        self.shown = dict(offsets)

    def close(self) -> None:
        self.closed = True


def values_of(rows: pl.DataFrame) -> list[bytes | None]:
    """Return rows of observations as the values of JSON messages, with event ids if the rows have them."""
    fields = [name for name in ("series_id", "timestamp", "value", "event_id") if name in rows.columns]
    at = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    return [json.dumps(row).encode() for row in rows.with_columns(at).select(fields).iter_rows(named=True)]
