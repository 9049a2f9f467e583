"""Read a topic with a Kafka client: list its partitions, look up offsets, poll messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipelines.settings.garbage_collection import without_garbage_collection
from pipelines.settings.kafka import (
    ANSWER_LIMIT_S,
    Broker,
    LastError,
    client,
    convert_client_errors,
    error_of,
)
from pipelines.sources.messages import Messages
from schemas.errors import DataError

# The client fetches in advance until it holds this many kilobytes, or this many messages of a partition.
# The largest poll takes 300,000 messages. With the default limits, the client pauses for a second after
# 100,000 messages, and polls are smaller.
_QUEUED_KB, _QUEUED_MESSAGES, _FULL_WAIT_MS = 64 << 10, 300_000, 20
_UNKNOWN = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
_TEMPORARY = ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "BROKER_NOT_AVAILABLE", "_WAIT_CACHE")
_RETRY_S = 0.1
_REFUSED = ("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED")


@dataclass
class Polled:
    """The messages of one partition from one poll.

    Attributes:
        values, keys: contents of the messages.
        offsets: offsets of the messages.
        came_ms: timestamps of the messages, in milliseconds since 1970. The configuration of the topic
            decides whether they are the times of arrival at the broker or the producer's times.
        end: one past the last offset of the partition, if the poll reached the end; otherwise None.
    """

    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    came_ms: list[int] = field(default_factory=list)
    end: int | None = None

    @property
    def messages(self) -> Messages:
        """The values and keys of the polled messages."""
        return Messages(self.values, self.keys)


class TopicConsumer:
    """Reads partitions of a topic from offsets that the job stores.

    The offsets are also committed to the consumer group, so that Kafka's tools show the progress of the job.
    They are never read back.

    Args:
        broker: address and options of the broker.
        topic: name of the topic.
        group: name of the consumer group.

    Raises:
        ConfigError: the client rejects an option, or its package is not installed.
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
        with convert_client_errors(broker, self.last):
            self._consumer = client("Consumer")(settings)

    @property
    def troubles(self) -> int:
        """The number of errors, such as a lost connection, that the client has reported so far."""
        return self.last.count

    def partitions(self) -> list[int]:
        """Return the numbers of the topic's partitions, sorted.

        Raises:
            DataError: no broker answers, the broker refuses the connection, or the topic does not exist.
        """
        listed = self._retry(lambda: self._consumer.list_topics(self.topic, timeout=ANSWER_LIMIT_S))
        topic = listed.topics[self.topic]
        if topic.error is not None:
            raise self._data_error(topic.error)
        return sorted(topic.partitions)

    def range_of(self, partition: int) -> tuple[int, int]:
        """Return a partition's first offset on the broker, and the offset that its next new message will get.

        Raises:
            DataError: the broker does not answer.
        """
        at = self._at(self.topic, partition)
        low, high = self._retry(
            lambda: self._consumer.get_watermark_offsets(at, timeout=ANSWER_LIMIT_S, cached=False)
        )
        return int(low), int(high)

    def offsets_at_time(self, partitions: Sequence[int], since: datetime) -> dict[int, int]:
        """Return the offset of the first message of each partition with a timestamp of ``since`` or later.

        A partition without such a message gets the offset of its end.

        Raises:
            DataError: the broker does not answer.
        """
        times = [self._at(self.topic, p, round(since.timestamp() * 1000)) for p in partitions]
        found = self._retry(lambda: self._consumer.offsets_for_times(times, timeout=ANSWER_LIMIT_S))
        return {f.partition: f.offset if f.offset >= 0 else self.range_of(f.partition)[1] for f in found}

    def read_from(self, offsets: Mapping[int, int]) -> None:
        """Set the partitions and offsets from which the next call of `poll` reads."""
        with convert_client_errors(self.broker, self.last):
            self._consumer.assign([self._at(self.topic, p, offset) for p, offset in offsets.items()])

    def poll(self, most: int, wait_s: float) -> dict[int, Polled]:
        """Wait until ``most`` messages arrive or ``wait_s`` seconds pass; return the messages by partition.

        If the broker does not answer, no error is raised, because the client connects to it again.

        Raises:
            DataError: the broker no longer has the messages, or refuses the request.
        """
        with convert_client_errors(self.broker, self.last), without_garbage_collection():
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
                    self._raise_if_permanent(message.partition(), error)
            messages = [message for message in messages if message.error() is None]
        by_partition: dict[int, list[Any]] = {}
        for number, run in groupby(messages, message_of.partition):
            by_partition.setdefault(number, []).extend(run)
        return {
            number: _polled(by_partition.get(number, []), ends.get(number)) for number in by_partition | ends
        }

    def show(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets to the consumer group, so that Kafka's tools show the progress of the job.

        An error of the commit is counted in `last`, and is not raised.
        """
        positions = [self._at(self.topic, p, offset) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=positions, asynchronous=True)
        except client("KafkaException") as error:
            self.last(error.args[0])

    def close(self) -> None:
        """Stop the client's threads and close its connections."""
        self._consumer.close()

    def _retry(self, ask: Callable[[], Any]) -> Any:
        """Return the result of ``ask``; repeat the call for some seconds if an error is temporary."""
        until_s = time.monotonic() + ANSWER_LIMIT_S
        with convert_client_errors(self.broker, self.last):
            while True:
                try:
                    return ask()
                except client("KafkaException") as error:
                    if error.args[0].name() not in _TEMPORARY or time.monotonic() > until_s:
                        # Poll once: only during a poll the client passes the cause of the error to `last`.
                        self._consumer.poll(0)
                        raise
                time.sleep(_RETRY_S)

    def _raise_if_permanent(self, partition: int, error: Any) -> None:
        """Raise DataError for an error from which the client cannot recover; ignore other errors."""
        name = error.name()
        if name == "_AUTO_OFFSET_RESET":
            raise DataError(self._lost_offset(partition, error))
        if name in (*_UNKNOWN, *_REFUSED) or error.fatal():
            raise self._data_error(error)

    def _lost_offset(self, partition: int, error: Any) -> str:
        low, high = self.range_of(partition)
        return (
            f"{self.topic}/{partition}: the broker has the offsets {low:,} to {high:,} now, and not the next "
            f"one to read ({error.str()}): start again in another output folder, with --state "
            "and the folder state of this output folder"
        )

    def _data_error(self, error: Any) -> Exception:
        name = error.name()
        if name in _UNKNOWN:
            return DataError(
                f"{self.broker.bootstrap}: there is no topic {self.topic!r}: correct kafka.topic"
            )
        if name in _REFUSED:
            return DataError(
                f"{self.broker.bootstrap}: reading {self.topic!r} is not allowed ({error.str()}): "
                "see kafka.options"
            )
        return error_of(self.broker, error, self.last)


def _polled(messages: Sequence[Any], end: int | None) -> Polled:
    """Return one partition's messages as columns; `Polled.end` is None if a message has the offset ``end``.

    It is also None if a message has a later offset, else ``end``.
    """
    message_of = client("Message")
    offsets = [*map(message_of.offset, messages)]
    return Polled(
        [*map(message_of.value, messages)],
        [*map(message_of.key, messages)],
        offsets,
        [*map(itemgetter(1), map(message_of.timestamp, messages))],
        end if end is None or not offsets or end > offsets[-1] else None,
    )
