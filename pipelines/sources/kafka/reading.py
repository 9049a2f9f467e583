"""Read the partitions of a topic: poll messages, announce new partitions, advance idle ones.

**Idle partitions.** A partition is idle if it was read to its end, no message came and no connection was lost
for `idle_s`, and the broker confirms that there are no more messages. The watermark of an idle partition
advances to the least watermark of the partitions that are not idle; if all are idle, to the greatest of all
watermarks. It does not advance with the wall clock, which has no relation to the event time of a topic that
is replayed; so while no rows arrive in any partition, no window closes. A row that arrives in the partition
afterwards with a time before the watermark is late.

In a keyed topic only the partitions that the same shard follows are compared. If all of these are idle while
other partitions are not, the watermark advances to the least watermark of those other partitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import least, newest
from forecaster.shards.sharding import empty_batch
from pipelines.sources.base import LogStep, Position, Positions, furthest_us
from pipelines.sources.files.validated_rows import validated
from pipelines.sources.kafka.batching import PolledRows, batches, between
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.kafka.keyed_series import SeriesShards
from pipelines.sources.kafka.repeated_decisions import Judge, PolledMessages, refuse, refused
from pipelines.sources.kafka.topic import KafkaTopic
from pipelines.sources.messages import Messages, RegistryAway, decoded
from schemas import observations, quarantine
from schemas.errors import DataError

_POLL_S, _REGISTRY_WAIT_S = 0.02, 0.1
_LOOK_EVERY_S = 0.5
_COMMIT_EVERY_S = 5.0


@dataclass
class _Silence:
    """The time of the last message of a partition, and whether the partition was read to its end."""

    since_s: float
    at_end: bool = False


class Reading:
    """Reads a topic with one consumer, and keeps what the steps of one process share.

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
        self.homes = None if source.keyed_shards is None else SeriesShards(source.homes(source.folder))
        self.decisions: Decisions
        self.held: Mapping[int, Polled] | None = None
        self.places: dict[str, Position] | None = None
        self.numbers: dict[str, int] = {}
        self.quiet: dict[str, _Silence] = {}
        self.troubles = 0
        self.looked_s = self.listed_s = self.committed_s = clock()

    def close(self) -> None:
        """Close the consumer."""
        self.consumer.close()

    def step(self, places: Positions) -> LogStep:
        """Return the next batches from ``places`` on; waits for messages for up to `_POLL_S` seconds."""
        if places != self.places:
            self._seek(places)
        now = dict(places)
        try:
            made = [*self._poll(now)]
            made += self._periodic(now, max((batch.arrived_s for batch in made), default=None))
        except BaseException:
            self.places = None  # the poll is lost, so the next step must seek
            raise
        self.places = now
        return LogStep(tuple(made), now, _REGISTRY_WAIT_S if self.held else 0.0)

    def _seek(self, places: Positions) -> None:
        self.numbers = {name: self.source.number(name) for name in places}
        self.decisions = self.source.decisions()  # the process that began this run may have added decisions
        self.held = None
        self.consumer.read_from({self.numbers[name]: place.offset for name, place in places.items()})
        self.quiet = {name: _Silence(self.clock()) for name in places}

    def schema(self, number: int) -> str | None:
        """Return the text of a schema from the decision journal; see `Kept`."""
        return self.decisions.schema(number)

    def keep_schema(self, number: int, text: str) -> None:
        """Store the text of a schema in the decision journal; see `Kept`."""
        self.decisions.keep_schema(number, text)

    def _poll(self, places: dict[str, Position]) -> Iterator[Batch]:
        source = self.source
        polled = self.held or self.consumer.poll(source.poll_rows, _POLL_S)
        try:
            found = [*self._validated_by_partition(polled)]
        except RegistryAway:  # keep the messages, and decode them again in the next step
            self.held = polled
            return
        self.held = None
        for number, taken in found:
            name = source.name(number)
            place, quiet = places[name], self.quiet[name]
            quiet.at_end = polled[number].end is not None
            if polled[number].offsets:
                quiet.since_s = self.clock()
            if self.homes is not None and place.shard is not None:
                series_ids = taken.rows["series_id"].unique(maintain_order=True)
                self.homes.check(f"{source.topic}/{number}", series_ids, place.shard)
            if taken.stop > place.offset:
                made, places[name] = batches(
                    name, place, taken, source.freq, source.lateness_s, self.decisions.before(name)
                )
                yield from (_addressed(batch, places) for batch in made)

    def _validated_by_partition(self, polled: Mapping[int, Polled]) -> Iterator[tuple[int, PolledRows]]:
        """Yield the validated rows of each polled partition, with the number of the partition.

        A validation costs milliseconds, however few the rows are, so all partitions are validated together.
        """
        polls = PolledMessages.of({self.source.name(number): one for number, one in polled.items()})
        offsets = pl.Series(polls.offsets)
        messages = Messages.of([one.messages for one in polled.values()])
        rows, rejected, outside = (
            self._validated(polls, messages)
            if len(offsets)
            else (_NO_ROWS, _NONE_REJECTED, _NO_ROWS["offset"])
        )
        for (number, one), low, high in zip(polled.items(), polls.bounds[:-1], polls.bounds[1:], strict=True):
            file = pl.format(f"{self.source.topic}/{number}/{{}}", pl.col("offset"))
            mine = _part(rejected, int(low), int(high), offsets)
            yield (
                number,
                PolledRows(
                    # the end may be greater: markers of transactions have offsets, but are not messages
                    max(one.offsets[-1] + 1 if one.offsets else 0, one.end or 0),
                    _part(rows, int(low), int(high), offsets),
                    mine.with_columns(file.alias("file")) if len(mine) else mine,
                    _part(outside.to_frame(), int(low), int(high), offsets)["offset"].to_numpy(),
                    max(one.came_ms[-1], 0) / 1000 if one.came_ms else 0.0,
                ),
            )

    def _validated(
        self, polls: PolledMessages, messages: Messages
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Return the valid rows, the rejected rows, and the message of each row outside the job's time range.

        In all three ``offset`` is the index in ``messages``, by which the caller splits them by partition.
        """
        known = refused(polls, self.decisions)
        max_future_s = self.source.input.max_future_s
        judge = None if max_future_s is None else Judge(polls, self.decisions, self.source.wall, max_future_s)
        parts = []
        for frame in decoded(self.decode, messages, known):
            refuse(polls, frame, known, self.decisions)
            parts.append(self._validated_frame(frame, judge))
        if len(parts) == 1:
            return parts[0]
        rows, rejected, outside = zip(*parts, strict=True)
        return _by_offset(rows, _NO_ROWS), _by_offset(rejected, _NONE_REJECTED), pl.concat(outside).sort()

    def _validated_frame(
        self, raw: pl.DataFrame, judge: Judge | None
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Validate the rows of one raw frame; return the three results of `_validated`."""
        how, message = self.source.input, raw["message"]
        first = np.searchsorted(message.to_numpy(), message.to_numpy())
        row = pl.Series("row", np.arange(len(raw)) - first + 1, pl.Int64)
        inside, left_out = how.within(raw.with_columns(row))
        places = inside["message"].to_numpy()

        def arrived_us(times_us: pl.Series, rows: pl.Series) -> pl.Series:
            assert judge is not None  # `validated` calls this only if `max_future_s` is set
            return pl.Series(judge.clock_us(times_us.to_numpy(), places[rows.to_numpy()]))

        good, rejected = validated(
            inside, inside["message"], arrived_us, how.max_future_s, how.columns.time_format
        )
        return good, rejected, _without(message, inside["message"]) if left_out else _NO_ROWS["offset"]

    def _periodic(self, places: dict[str, Position], arrived_at_s: float | None) -> Iterator[Batch]:
        """Do what is not done in every poll: commit offsets, find new partitions, advance idle partitions.

        ``arrived_at_s`` is the greatest timestamp (seconds since 1970) of the polled batches; None without
        batches.
        """
        now_s = self.clock()
        if now_s - self.committed_s >= _COMMIT_EVERY_S:
            self.committed_s = now_s
            self.consumer.show({self.numbers[name]: place.offset for name, place in places.items()})
        if now_s - self.listed_s >= self.source.look_s:
            self.listed_s = now_s
            yield from self._announce_new(places)
        if arrived_at_s is not None or now_s - self.looked_s >= _LOOK_EVERY_S:
            self.looked_s = now_s
            yield from self._advance_idle(places, now_s, arrived_at_s or 0.0)

    def _announce_new(self, places: dict[str, Position]) -> Iterator[Batch]:
        """Announce partitions that were added to the topic; windows that closed before stay closed.

        A shard applies later batches only after the announcements have reached it, see `Batch.partitions`.
        """
        new: list[int] = []
        with suppress(DataError):  # if the broker does not answer, the next look finds them
            new = [n for n in self.consumer.partitions() if self.source.name(n) not in places]
        if not new:
            return
        for number in new:
            name, shard = self.source.name(number), self.source.shard_of(number)
            slowest = furthest_us(places, shard)
            if slowest is not None:
                self.decisions.carry(name, 0, slowest)
            known = _followed(places, shard)
            yield replace(empty_batch(name, 0), watermark_us=slowest, partitions=known, shard=shard)
            places[name] = Position(0, slowest, shard=shard)
        self._seek(places)

    def _advance_idle(
        self, places: dict[str, Position], now_s: float, arrived_at_s: float
    ) -> Iterator[Batch]:
        """Advance the watermarks of idle partitions; see the module's docstring."""
        if self.troubles != self.consumer.troubles:  # without a connection, a partition only seems idle
            self.troubles = self.consumer.troubles
            for quiet in self.quiet.values():
                quiet.since_s = now_s
        idle = [
            name
            for name, quiet in self.quiet.items()
            if quiet.at_end and now_s - quiet.since_s >= self.source.idle_s
        ]
        targets = {
            place.shard: _idle_target_us(places, {*places} - {*idle}, place.shard)
            for place in places.values()
        }
        for name in idle:
            place = places[name]
            if (target_us := targets[place.shard]) is None:
                continue
            behind = place.watermark_us is None or self._closed(place.watermark_us) < self._closed(target_us)
            if behind and self._is_confirmed(name, place.offset):
                self.decisions.carry(name, place.offset, target_us)
                places[name] = place._replace(watermark_us=target_us)
                nothing = empty_batch(name, place.offset)
                yield _addressed(replace(nothing, watermark_us=target_us, arrived_s=arrived_at_s), places)

    def _is_confirmed(self, name: str, offset: int) -> bool:
        """Return whether the broker confirms that there is no message from ``offset`` on.

        False if the broker does not answer.
        """
        with suppress(DataError):
            return self.consumer.range_of(self.numbers[name])[1] <= offset
        return False

    def _closed(self, watermark_us: int) -> int:
        """Return the index of the last window that a watermark closes."""
        return self.source.freq.last_closed(watermark_us)


def _addressed(batch: Batch, places: Positions) -> Batch:
    shard = places[batch.partition].shard
    return replace(batch, partitions=_followed(places, shard), shard=shard)


def _followed(places: Positions, shard: int | None) -> int:
    """Return the number of partitions that a shard follows."""
    return sum(place.shard == shard for place in places.values())


def _idle_target_us(places: Positions, busy: set[str], shard: int | None) -> int | None:
    """Return the watermark to which the idle partitions of ``shard`` advance; None if they do not advance."""
    of_shard = [places[name].watermark_us for name in busy if places[name].shard == shard]
    if of_shard or busy:
        return least(of_shard or [places[name].watermark_us for name in busy])
    return newest(place.watermark_us for place in places.values())


def _part(frame: pl.DataFrame, low: int, high: int, offsets: pl.Series) -> pl.DataFrame:
    """Return the rows of the messages ``[low, high)`` of a poll.

    Their ``offset`` is the index of the message in the poll, and becomes its offset in the partition.
    """
    part = between(frame, low, high)
    return part.with_columns(offsets.gather(part["offset"]).alias("offset")) if len(part) else part


def _by_offset(frames: Sequence[pl.DataFrame], empty: pl.DataFrame) -> pl.DataFrame:
    """Join frames and sort their rows by ``offset``; the rows of one message keep their order."""
    return pl.concat([frame for frame in frames if len(frame)] or [empty]).sort("offset", maintain_order=True)


def _without(message: pl.Series, kept: pl.Series) -> pl.Series:
    """Return the message of each row that was left out; one message may have many rows.

    ``message`` has the message of every row, ``kept`` that of every row that was not left out.
    """
    count = message.value_counts().join(kept.value_counts(name="kept"), on="message", how="left")
    left_out = count.with_columns(pl.col("count") - pl.col("kept").fill_null(0)).filter(pl.col("count") > 0)
    return left_out.select(pl.col("message").repeat_by("count").explode()).to_series().sort().alias("offset")


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)
