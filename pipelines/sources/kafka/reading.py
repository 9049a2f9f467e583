"""A topic as it is read: what a poll brings as batches, idle partitions, new ones.

**An idle partition.** No broker was away and nothing came for `idle_s`, it was read to its end, and the
broker, asked anew, says so. Its time then goes on with the others: to the least watermark of those that are
not idle; where all are, to the greatest of all. Not to the wall clock, which knows nothing of the event
time of a topic that somebody replays. So without any rows time stands still, and what waits, waits. A row
that comes later and is older is late. Where a topic is keyed, the others are those of its shard, unless all
of these are idle: a shard waits for no partition that it does not follow.
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
from forecaster.shards.sharding import no_batch
from pipelines.sources.base import Place, Places, Stride, furthest_us
from pipelines.sources.files.validated_rows import validated
from pipelines.sources.kafka.batching import Taken, batches, between
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.kafka.keyed_series import Homes
from pipelines.sources.kafka.repeated_decisions import Judge, Polls, refuse, refused
from pipelines.sources.kafka.topic import KafkaTopic
from pipelines.sources.messages import Messages, RegistryAway, decoded
from schemas import observations, quarantine
from schemas.errors import DataError

_POLL_S, _HELD_S = 0.02, 0.1
_LOOKED_EVERY_S = 0.5
_SHOWN_EVERY_S = 5.0


@dataclass
class _Quiet:
    """Since when nothing came of a partition, and whether it was read to its end."""

    since_s: float
    at_end: bool = False


class Reading:
    """A topic as far as it was read in this process.

    Args:
        source: which topic, and how it is read.
        clock: seconds; another one in tests.

    Raises:
        ConfigError: the decoder cannot be had, or an option cannot be.
        DataError: the state table cannot be read, of whose series a keyed topic must know the shards.
    """

    def __init__(self, source: KafkaTopic, clock: Callable[[], float] = time.monotonic) -> None:
        self.source, self.clock = source, clock
        self.decode = source.decoder.decoder(source.broker.registry_user, self)
        self.consumer = source.opens(source.broker, source.topic, source.group)
        self.homes = None if source.keyed_shards is None else Homes(source.homes(source.folder))
        self.decisions: Decisions
        self.held: Mapping[int, Polled] | None = None
        self.places: dict[str, Place] | None = None
        self.numbers: dict[str, int] = {}
        self.quiet: dict[str, _Quiet] = {}
        self.troubles = 0
        self.looked_s = self.listed_s = self.shown_s = clock()

    def close(self) -> None:
        """Ends the consumer."""
        self.consumer.close()

    def step(self, places: Places) -> Stride:
        """What comes next; waits a moment for it."""
        if places != self.places:
            self._seek(places)
        now = dict(places)
        try:
            made = [*self._polled(now)]
            made += self._looked(now, max((batch.arrived_s for batch in made), default=None))
        except BaseException:
            self.places = None  # asked again, begin again
            raise
        self.places = now
        return Stride(tuple(made), now, _HELD_S if self.held else 0.0)

    def _seek(self, places: Places) -> None:
        self.numbers = {name: self.source.number(name) for name in places}
        self.decisions = self.source.decisions()  # the process that began this run may have added decisions
        self.held = None
        self.consumer.read_from({self.numbers[name]: place.offset for name, place in places.items()})
        self.quiet = {name: _Quiet(self.clock()) for name in places}

    def schema(self, number: int) -> str | None:
        """See `Kept`."""
        return self.decisions.schema(number)

    def keep_schema(self, number: int, text: str) -> None:
        """See `Kept`."""
        self.decisions.keep_schema(number, text)

    def _polled(self, places: dict[str, Place]) -> Iterator[Batch]:
        source = self.source
        polled = self.held or self.consumer.poll(source.poll_rows, _POLL_S)
        try:
            found = [*self._taken(polled)]
        except RegistryAway:  # wait for the registry, as for a broker
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
                yield from (_placed(batch, places) for batch in made)

    def _taken(self, polled: Mapping[int, Polled]) -> Iterator[tuple[int, Taken]]:
        """What came of each partition as validated rows; a check costs milliseconds, so one for all."""
        polls = Polls.of({self.source.name(number): one for number, one in polled.items()})
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
                Taken(
                    # an end may lie behind marks of transactions, which have offsets and hold nothing
                    max(one.offsets[-1] + 1 if one.offsets else 0, one.end or 0),
                    _part(rows, int(low), int(high), offsets),
                    mine.with_columns(file.alias("file")) if len(mine) else mine,
                    _part(outside.to_frame(), int(low), int(high), offsets)["offset"].to_numpy(),
                    max(one.came_ms[-1], 0) / 1000 if one.came_ms else 0.0,
                ),
            )

    def _validated(self, polls: Polls, messages: Messages) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
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

        def came_us(times_us: pl.Series, rows: pl.Series) -> pl.Series:
            assert judge is not None  # rows are not compared with a clock then
            return pl.Series(judge.clock_us(times_us.to_numpy(), places[rows.to_numpy()]))

        good, rejected = validated(
            inside, inside["message"], came_us, how.max_future_s, how.columns.time_format
        )
        return good, rejected, _without(message, inside["message"]) if left_out else _NO_ROWS["offset"]

    def _looked(self, places: dict[str, Place], came_s: float | None) -> Iterator[Batch]:
        """What follows from looks that are not for each poll; ``came_s`` is of its rows, None without any."""
        now_s = self.clock()
        if now_s - self.shown_s >= _SHOWN_EVERY_S:
            self.shown_s = now_s
            self.consumer.show({self.numbers[name]: place.offset for name, place in places.items()})
        if now_s - self.listed_s >= self.source.look_s:
            self.listed_s = now_s
            yield from self._new(places)
        if came_s is not None or now_s - self.looked_s >= _LOOKED_EVERY_S:
            self.looked_s = now_s
            yield from self._carried_on(places, now_s, came_s or 0.0)

    def _new(self, places: dict[str, Place]) -> Iterator[Batch]:
        """Announces partitions that came up; what closed without them stays closed.

        What is read from here on waits in a shard that has not heard of them, see `Batch.partitions`.
        """
        new: list[int] = []
        with suppress(DataError):  # a broker that is away for now has no new ones
            new = [n for n in self.consumer.partitions() if self.source.name(n) not in places]
        if not new:
            return
        for number in new:
            name, shard = self.source.name(number), self.source.shard_of(number)
            slowest = furthest_us(places, shard)
            if slowest is not None:
                self.decisions.carry(name, 0, slowest)
            known = _followed(places, shard)
            yield replace(no_batch(name, 0), watermark_us=slowest, partitions=known, shard=shard)
            places[name] = Place(0, slowest, shard=shard)
        self._seek(places)

    def _carried_on(self, places: dict[str, Place], now_s: float, came_s: float) -> Iterator[Batch]:
        """Carries the time of idle partitions on; see the module."""
        if self.troubles != self.consumer.troubles:  # that nothing came while a broker was away is no silence
            self.troubles = self.consumer.troubles
            for quiet in self.quiet.values():
                quiet.since_s = now_s
        idle = [
            name
            for name, quiet in self.quiet.items()
            if quiet.at_end and now_s - quiet.since_s >= self.source.idle_s
        ]
        until = {
            place.shard: _until_us(places, {*places} - {*idle}, place.shard) for place in places.values()
        }
        for name in idle:
            place = places[name]
            if (until_us := until[place.shard]) is None:
                continue
            behind = place.watermark_us is None or self._closed(place.watermark_us) < self._closed(until_us)
            if behind and self._is_confirmed(name, place.offset):
                self.decisions.carry(name, place.offset, until_us)
                places[name] = place._replace(watermark_us=until_us)
                nothing = no_batch(name, place.offset)
                yield _placed(replace(nothing, watermark_us=until_us, arrived_s=came_s), places)

    def _is_confirmed(self, name: str, offset: int) -> bool:
        """Whether the broker says that nothing is there from ``offset`` on; one that is away says nothing."""
        with suppress(DataError):
            return self.consumer.range_of(self.numbers[name])[1] <= offset
        return False

    def _closed(self, watermark_us: int) -> int:
        return self.source.freq.last_closed(watermark_us)


def _placed(batch: Batch, places: Places) -> Batch:
    shard = places[batch.partition].shard
    return replace(batch, partitions=_followed(places, shard), shard=shard)


def _followed(places: Places, shard: int | None) -> int:
    """How many partitions a shard follows."""
    return sum(place.shard == shard for place in places.values())


def _until_us(places: Places, busy: set[str], shard: int | None) -> int | None:
    """How far an idle partition is carried on, which ``shard`` follows; None: not at all."""
    beside = [places[name].watermark_us for name in busy if places[name].shard == shard]
    if beside or busy:
        return least(beside or [places[name].watermark_us for name in busy])
    return newest(place.watermark_us for place in places.values())


def _part(frame: pl.DataFrame, low: int, high: int, offsets: pl.Series) -> pl.DataFrame:
    """The rows of messages ``[low, high)``, which ``offset`` says, with the offsets of their partition."""
    part = between(frame, low, high)
    return part.with_columns(offsets.gather(part["offset"]).alias("offset")) if len(part) else part


def _by_offset(frames: Sequence[pl.DataFrame], empty: pl.DataFrame) -> pl.DataFrame:
    """Join frames and sort their rows by ``offset``; the rows of one message keep their order."""
    return pl.concat([frame for frame in frames if len(frame)] or [empty]).sort("offset", maintain_order=True)


def _without(message: pl.Series, kept: pl.Series) -> pl.Series:
    """Messages of the rows that were left out, one for each of these; both rise, one row may be of many."""
    count = message.value_counts().join(kept.value_counts(name="kept"), on="message", how="left")
    left_out = count.with_columns(pl.col("count") - pl.col("kept").fill_null(0)).filter(pl.col("count") > 0)
    return left_out.select(pl.col("message").repeat_by("count").explode()).to_series().sort().alias("offset")


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)
