"""What is asked of a Kafka consumer: which partitions there are, what is next, where they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipelines.settings.kafka import ANSWER_LIMIT_S, Broker, LastError, client, error_of, not_collecting, told
from pipelines.sources.messages import Messages
from schemas.errors import DataError

# Read ahead as much as a large poll takes. Left alone, the library fetches nothing for a second whenever it
# has 100,000 messages, however small, and polls bring half as many.
_QUEUED_KB, _QUEUED_MESSAGES, _FULL_WAIT_MS = 64 << 10, 300_000, 20
_UNKNOWN = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
_PASSING = ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "BROKER_NOT_AVAILABLE", "_WAIT_CACHE")
_AGAIN_S = 0.1
_REFUSED = ("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED")


@dataclass
class Polled:
    """What came of one partition.

    Attributes:
        values, keys: of its messages.
        offsets: likewise.
        came_ms: when each came to the broker, or was made, as the topic has it; milliseconds since 1970.
        end: offset at which the partition ended when it was read to there; None where it was not.
    """

    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    came_ms: list[int] = field(default_factory=list)
    end: int | None = None

    @property
    def messages(self) -> Messages:
        """Values and keys."""
        return Messages(self.values, self.keys)


class TopicConsumer:
    """Reads partitions of a topic from offsets of our own; the group is told of them, and decides nothing.

    Args:
        broker: where it is.
        topic: its name.
        group: name under which offsets are shown.

    Raises:
        ConfigError: an option cannot be, or the package is missing.
    """

    def __init__(self, broker: Broker, topic: str, group: str) -> None:
        self.broker, self.topic, self.last = broker, topic, LastError()
        self._at = client("TopicPartition")
        settings = broker.settings(
            self.last,
            group_id=group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            auto_offset_reset="error",
            allow_auto_create_topics=False,
            queued_max_messages_kbytes=_QUEUED_KB,
            queued_min_messages=_QUEUED_MESSAGES,
            fetch_queue_backoff_ms=_FULL_WAIT_MS,
            fetch_wait_max_ms=100,
        )
        with told(broker, self.last):
            self._consumer = client("Consumer")(settings)

    @property
    def troubles(self) -> int:
        """How often a connection was lost or refused so far."""
        return self.last.count

    def partitions(self) -> list[int]:
        """Numbers of the partitions that there are.

        Raises:
            DataError: nobody answers, we are refused, or there is no such topic.
        """
        listed = self._asked(lambda: self._consumer.list_topics(self.topic, timeout=ANSWER_LIMIT_S))
        found = listed.topics[self.topic]
        if found.error is not None:
            raise self._wrong(found.error)
        return sorted(found.partitions)

    def range_of(self, partition: int) -> tuple[int, int]:
        """The first offset that the broker still has, and the one that comes next, asked of the broker.

        Raises:
            DataError: it does not answer.
        """
        at = self._at(self.topic, partition)
        low, high = self._asked(
            lambda: self._consumer.get_watermark_offsets(at, timeout=ANSWER_LIMIT_S, cached=False)
        )
        return int(low), int(high)

    def at_time(self, partitions: Sequence[int], since: datetime) -> dict[int, int]:
        """The first offset of each partition whose message came at ``since`` or later; its end if none did.

        Raises:
            DataError: the broker does not answer.
        """
        asked = [self._at(self.topic, p, round(since.timestamp() * 1000)) for p in partitions]
        found = self._asked(lambda: self._consumer.offsets_for_times(asked, timeout=ANSWER_LIMIT_S))
        return {f.partition: f.offset if f.offset >= 0 else self.range_of(f.partition)[1] for f in found}

    def read_from(self, offsets: Mapping[int, int]) -> None:
        """What `poll` gives begins there."""
        with told(self.broker, self.last):
            self._consumer.assign([self._at(self.topic, p, offset) for p, offset in offsets.items()])

    def poll(self, most: int, wait_s: float) -> dict[int, Polled]:
        """What came next, by partition: ``most`` messages, or what there is after ``wait_s``.

        Raises:
            DataError: what is asked for is gone, or we are refused. A broker that is away is waited for.
        """
        with told(self.broker, self.last), not_collecting():
            return self._columns(self._consumer.consume(most, wait_s))

    def _columns(self, messages: Sequence[Any]) -> dict[int, Polled]:
        message_of = client("Message")
        ends: dict[int, int] = {}
        if any(map(message_of.error, messages)):
            for message in messages:
                if (error := message.error()) is None:
                    continue
                if error.name() == "_PARTITION_EOF":
                    ends[message.partition()] = message.offset()
                else:
                    self._judge(message.partition(), error)
            messages = [message for message in messages if message.error() is None]
        by_partition: dict[int, list[Any]] = {}
        for number, run in groupby(messages, message_of.partition):
            by_partition.setdefault(number, []).extend(run)
        return {
            number: _polled(by_partition.get(number, []), ends.get(number)) for number in by_partition | ends
        }

    def show(self, offsets: Mapping[int, int]) -> None:
        """Tells the group how far we are, for people to look at; what comes of it is of no matter."""
        there = [self._at(self.topic, p, offset) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=there, asynchronous=True)
        except client("KafkaException") as error:
            self.last(error.args[0])

    def close(self) -> None:
        """Ends its threads and connections."""
        self._consumer.close()

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """An answer of the broker, asked again where it has just moved or made the partition."""
        until_s = time.monotonic() + ANSWER_LIMIT_S
        with told(self.broker, self.last):
            while True:
                try:
                    return ask()
                except client("KafkaException") as error:
                    if error.args[0].name() not in _PASSING or time.monotonic() > until_s:
                        self._consumer.poll(0)  # the client tells `last` why in a poll alone
                        raise
                time.sleep(_AGAIN_S)

    def _judge(self, partition: int, error: Any) -> None:
        """Raises what will not pass; a broker that is away for now will be back."""
        name = error.name()
        if name == "_AUTO_OFFSET_RESET":
            raise DataError(self._gone(partition, error))
        if name in (*_UNKNOWN, *_REFUSED) or error.fatal():
            raise self._wrong(error)

    def _gone(self, partition: int, error: Any) -> str:
        low, high = self.range_of(partition)
        return (
            f"{self.topic}/{partition}: the broker has the offsets {low:,} to {high:,} by now, and not those "
            f"to go on from ({error.str()}): begin anew in another output folder, with --state from this one"
        )

    def _wrong(self, error: Any) -> Exception:
        name = error.name()
        if name in _UNKNOWN:
            return DataError(f"{self.broker.bootstrap}: there is no topic {self.topic!r}: see kafka.topic")
        if name in _REFUSED:
            return DataError(
                f"{self.broker.bootstrap}: we may not read {self.topic!r} ({error.str()}): see kafka.options"
            )
        return error_of(self.broker, error, self.last)


def _polled(messages: Sequence[Any], end: int | None) -> Polled:
    """Messages as columns; an end that more came after is none."""
    message_of = client("Message")
    offsets = [*map(message_of.offset, messages)]
    return Polled(
        [*map(message_of.value, messages)],
        [*map(message_of.key, messages)],
        offsets,
        [*map(itemgetter(1), map(message_of.timestamp, messages))],
        end if end is None or not offsets or end > offsets[-1] else None,
    )
