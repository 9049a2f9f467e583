"""Find the idle partitions of a topic, and advance their watermarks, so that windows can close.

A partition is idle under three conditions: it was read to its end; for `idle_s`, no message came and no
connection was lost; and the broker confirms that there are no more messages. The watermark of an idle
partition advances to the least watermark of the partitions that are not idle. If all are idle, it advances to
the greatest of all watermarks. No watermark advances with the wall clock, because in a replayed topic event
times have no relation to it. So no window closes while no rows arrive in any partition. A later row of an
idle partition is late if the advanced watermark has closed its window.

In a keyed topic only the partitions that the same shard follows are compared. If all of these are idle while
other partitions are not, the watermark advances to the least watermark of those other partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from forecaster.shards.lateness import largest_watermark, smallest_watermark
from pipelines.sources.base import Positions
from pipelines.sources.kafka.consumer import Polled, TopicConsumer
from pipelines.sources.kafka.topic import KafkaTopic
from schemas.errors import DataError


@dataclass
class Silence:
    """When a partition's idle time began, and whether the last poll read the partition to its end.

    The idle time begins with the last message, `IdlePartitions.restart` or an error of the Kafka client,
    whichever is the latest.
    """

    since_s: float
    at_end: bool = False


class IdlePartitions:
    """Finds the idle partitions of a topic, and the watermark to which each idle partition advances.

    Args:
        source: the topic and its settings.
        consumer: confirms that a partition has no more messages, and counts lost connections.
        clock: returns seconds of a clock that never goes back.
    """

    def __init__(self, source: KafkaTopic, consumer: TopicConsumer, clock: Callable[[], float]) -> None:
        self.source, self.consumer, self.clock = source, consumer, clock
        self.silences: dict[str, Silence] = {}
        self.troubles = 0

    def restart(self, names: Iterable[str]) -> None:
        """Begin to observe the named partitions; none of them is idle before `idle_s` seconds have passed."""
        self.silences = {name: Silence(self.clock()) for name in names}

    def record_poll(self, name: str, polled: Polled) -> None:
        """Record whether a partition had messages in a poll, and whether the poll read it to its end."""
        silence = self.silences[name]
        silence.at_end = polled.end is not None
        if polled.offsets:
            silence.since_s = self.clock()

    def advances(self, places: Positions, now_s: float) -> Iterator[tuple[str, int]]:
        """Yield the name and the new watermark of each idle partition, if this watermark closes more windows.

        The broker confirms right before each yield that the partition has no more messages.
        """
        idle = self._idle(now_s)
        busy = {*places} - {*idle}
        targets = {place.shard: _target_us(places, busy, place.shard) for place in places.values()}
        for name in idle:
            place = places[name]
            target_us = targets[place.shard]
            if target_us is None or not self._closes_more(place.watermark_us, target_us):
                continue
            if self._is_confirmed(name, place.offset):
                yield name, target_us

    def _idle(self, now_s: float) -> list[str]:
        # Without a connection, every partition seems idle. So a connection error resets the idle times.
        if self.troubles != self.consumer.troubles:
            self.troubles = self.consumer.troubles
            for silence in self.silences.values():
                silence.since_s = now_s
        return [
            name
            for name, silence in self.silences.items()
            if silence.at_end and now_s - silence.since_s >= self.source.idle_s
        ]

    def _closes_more(self, watermark_us: int | None, target_us: int) -> bool:
        """Return whether a watermark ``target_us`` closes more windows than the present watermark does."""
        last_closed = self.source.freq.last_closed
        return watermark_us is None or last_closed(watermark_us) < last_closed(target_us)

    def _is_confirmed(self, name: str, offset: int) -> bool:
        """Return whether the broker confirms that the partition has no message from ``offset`` on.

        False if the broker does not answer.
        """
        with suppress(DataError):
            return self.consumer.range_of(self.source.number(name))[1] <= offset
        return False


def _target_us(places: Positions, busy: set[str], shard: int | None) -> int | None:
    """Return the watermark to which the idle partitions of ``shard`` advance; None if they do not advance."""
    of_shard = [places[name].watermark_us for name in busy if places[name].shard == shard]
    if of_shard or busy:
        return smallest_watermark(of_shard or [places[name].watermark_us for name in busy])
    return largest_watermark(place.watermark_us for place in places.values())
