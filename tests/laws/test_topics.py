"""Law: a topic, and what is written down of its idle partitions, decide all.

Polls, kills, clocks, when partitions came up, and the order in which an engine delivers change nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from forecaster import snapshot
from forecaster.batch import Batch
from forecaster.model import Forecaster
from forecaster.shard import Shard
from forecaster.sharding import announced
from forecaster.windows import Windows
from pipelines.kafka import Broker
from pipelines.sources.base import Place, Places
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import Reader
from pipelines.sources.tables import Columns
from pipelines.state_table import StateTable
from tests.fleets import (
    HOUR,
    HOUR_US,
    START,
    Floats,
    Key,
    Ran,
    assert_same,
    by_key,
    forecaster,
    interleaved,
    rows_of,
    scales,
    sorted_rows,
)
from tests.laws.test_crash import Disk, outputs
from tests.topics import Topic, values_of

SHARDS = 3


@dataclass(eq=False)
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@st.composite
def topics(draw: st.DrawFn, keyed: bool) -> tuple[Topic, dict[str, float], int]:
    """Rows on four partitions of uneven speed, some late, some no rows; scales; the first window.

    Where they are ``keyed``, a series has one partition, and there are enough for all shards.
    """
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = 1e3 + chance.normal(size=(16, 5)).cumsum(axis=0)
    values[chance.random(values.shape) < draw(st.sampled_from([0.0, 0.2]))] = np.nan
    fleet = Windows(tuple(f"s{number}" for number in range(5)), START, values)
    rows = rows_of(fleet)
    delay_us = draw(st.integers(0, 4)) * HOUR_US
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    rows = rows[np.argsort(event_us + chance.integers(0, delay_us + 1, len(rows)), kind="stable")]
    share = draw(st.sampled_from([[0.4, 0.3, 0.2, 0.1], [0.6, 0.3, 0.1, 0.0]]))
    home = pl.Series(chance.choice(4, len(rows), p=share))
    if keyed:
        home = rows["series_id"].replace_strict({f"s{n}": n % 4 for n in range(5)})
    partitions = {}
    for number in range(4):
        messages = values_of(rows.filter(home == number))
        for at in sorted(chance.integers(0, len(messages) + 1, int(chance.integers(0, 3)))):
            messages.insert(int(at), chance.choice(np.array([b"nope", b'{"value": 5}'], object)))
        partitions[number] = messages
    there = dict.fromkeys(range(draw(st.integers(SHARDS if keyed else 1, 4))), 0)  # the others come up later
    return Topic(partitions, there, chance), scales(fleet), fleet.start


def source_of(topic: Topic, start: int, folder: Path, lateness_h: int, **more: Any) -> KafkaSource:
    # The first five hours lie outside, and count.
    how = Input(Columns(), start_us=(start + 5) * HOUR_US, max_future_s=3600)
    return KafkaSource(
        Broker("nowhere:9092"),
        "rows",
        DecoderSpec(),
        how,
        HOUR,
        folder,
        lateness_h * 3600,
        opens=topic,
        **more,
    )


def began(source: KafkaSource, shards: list[Shard]) -> Places:
    reached = StateTable(tuple(shards)).reached()
    return source.begin({name: Place(*place) for name, place in reached.items()})


def is_read(source: KafkaSource, topic: Topic, places: Places, among: Iterable[int]) -> bool:
    ends = {source.name(number): len(topic.partitions[number]) for number in among}
    return all(name in places and places[name].offset == end for name, end in ends.items())


def read(
    source: KafkaSource, places: Places, clock: Clock, at_once: int = 9, comes_up: float = 0.1
) -> Iterator[Batch]:
    """The batches of a run that lives until all is there and read, with whatever its clock says.

    In a step at most so many messages come ``at_once``, and with this chance another partition ``comes_up``.
    """
    reading, topic = Reading(source, clock), source.opens
    assert isinstance(topic, Topic)
    yield from Reader(reading, Path("/nowhere"), 1e9).next(places).batches  # type: ignore[arg-type]
    awaited = topic.partitions if comes_up else topic.there
    while not is_read(source, topic, places, awaited):
        if (coming := len(topic.there)) < len(topic.partitions) and topic.chance.random() < comes_up:
            topic.there[coming] = 0
        for number in topic.there:
            most = len(topic.partitions[number]) - topic.there[number]
            if topic.chance.random() < 0.6:  # else it is silent for now
                topic.there[number] += int(topic.chance.integers(0, min(most, at_once) + 1))
        clock.now_s += float(topic.chance.choice([0.1, 1.0, 40.0]))
        stride = reading.step(places)
        yield from stride.batches
        places = stride.places


def knowing(shard: Shard, places: Places) -> Shard:
    owners = {name: place.shard for name, place in places.items() if place.shard is not None}
    return announced(shard, {name: place.offset for name, place in places.items()}, owners)


def opened(
    model: Forecaster, source: KafkaSource, first: Places, disks: Iterable[Disk]
) -> tuple[list[Shard], Places]:
    """The shards that a run begins with, as `state_table.begin` puts them there, and where it reads on.

    Shards without a snapshot are as the ``first`` run found the topic.
    """
    cold = [Shard.cold(number, SHARDS, model.initial_state(), ()) for number in range(SHARDS)]
    shards = [disk.opened(knowing(shard, first)) for disk, shard in zip(disks, cold, strict=True)]
    places = began(source, shards)
    return [knowing(shard, places) for shard in shards], places


def delivered(batches: Iterable[Batch], often: float, chance: np.random.Generator) -> Iterator[Batch]:
    """Batches as an engine may bring them to a shard: any may be overtaken by any that follow it."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        while held and chance.random() < often:
            yield held.pop(int(chance.integers(0, len(held))))
    while held:
        yield held.pop(int(chance.integers(0, len(held))))


def lived(
    model: Forecaster, source: KafkaSource, topic: Topic, lives: int, draw: Any, between: bool = False
) -> Ran:
    """A job that is killed again and again, each shard at a moment of its own.

    Where that is said, a partition comes up ``between`` each two lives, and none while one lasts.
    """
    pace = (2, 0.0) if between else (9, 0.1)
    first = source.begin({})
    disks, clock = [Disk() for _ in range(SHARDS)], Clock()
    for life in range(lives + 1):
        is_last = life == lives
        if between and life:
            topic.there[life] = 0
        shards, places = opened(model, source, first, disks)
        batches = read(source, places, clock, *pace)
        read_so_far = [*islice(batches, None if is_last else draw(st.integers(0, 80)))]
        often, in_order = draw(st.sampled_from([0.1, 0.5])), draw(st.sampled_from([0.2, 0.7, 1.0]))
        per_step = draw(st.integers(1, 9))
        for number in range(SHARDS):
            left = None if is_last else draw(st.integers(0, 60))
            mine = delivered(read_so_far, in_order, topic.chance)
            for after, output in islice(outputs(model, shards[number], mine, per_step), left):
                shards[number] = after
                disks[number].write(output)
                if topic.chance.random() < often:
                    disks[number].snapshot = snapshot.to_bytes(after)
    assert not any(shard.early for shard in shards)
    return Ran(
        shards,
        [one for disk in disks for one in disk.forecasts.values()],
        [rows for disk in disks for rows in disk.late.values()],
        [rows for disk in disks for rows in disk.quarantined.values()],
    )


def whole(model: Forecaster, source: KafkaSource, topic: Topic) -> Ran:
    """The same topic read at once, with what was written down of it."""
    topic.fill()
    shards, places = opened(model, source, source.begin({}), [Disk() for _ in range(SHARDS)])
    ran = Ran(shards)
    reading = Reading(source, Clock())
    batches = [*Reader(reading, Path("/nowhere"), 1e9).next(places).batches]  # type: ignore[arg-type]
    while not is_read(source, topic, places, topic.partitions):
        stride = reading.step(places)
        batches += stride.batches
        places = stride.places
    for number in range(SHARDS):
        fold_on(model, ran, number, batches)
    return ran


def fold_on(model: Forecaster, ran: Ran, number: int, batches: Iterable[Batch]) -> None:
    """Has one of the shards take batches."""
    for shard, output in outputs(model, ran.shards[number], batches, 4):
        ran.shards[number] = shard
        ran.take(output)


def swings(forecasts: dict[Key, Floats], scale: dict[str, float]) -> dict[str, float]:
    """How much forecasts of each series move: sums without their late rows move more than the fleet does."""
    found = dict(scale)
    for name in {series for series, _ in forecasts}:
        values = np.stack([one for (series, _), one in forecasts.items() if series == name])
        found[name] = max(scale[name], float(np.ptp(values)))
    return found


@pytest.mark.parametrize("keyed", [False, True])
# its input is chance's, which does not shrink, and to try takes minutes
@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(kills=st.integers(0, 3), lateness_h=st.integers(0, 2), data=st.data())
def test_polls_kills_and_clocks_change_nothing_but_what_is_written_down(
    keyed: bool, kills: int, lateness_h: int, data: st.DataObject
) -> None:
    topic, scale, start = data.draw(topics(keyed))
    model = forecaster(aggregate="sum", allowed_lateness=f"{lateness_h}h")
    with tempfile.TemporaryDirectory() as name:
        polled = data.draw(st.integers(2, 30))
        source = source_of(topic, start, Path(name), lateness_h, poll_rows=polled, idle_s=30)
        source = replace(source, keyed_shards=SHARDS if keyed else None)
        killed = lived(model, source, topic, kills, data.draw)
        clean = whole(model, replace(source, poll_rows=10**6, keyed_shards=None), topic)
    assert_same_ran(killed, clean, topic, scale, keyed)


def assert_same_ran(killed: Ran, clean: Ran, topic: Topic, scale: dict[str, float], keyed: bool) -> None:
    closed = [shard.closed_through for shard in clean.shards]
    found = by_key(killed.forecasts)
    if keyed:  # its shards wait for less
        found = {key: one for key, one in found.items() if key[1] <= (closed[0] or 0)}
    assert killed.counts.rows_in == clean.counts.rows_in
    assert killed.counts == clean.counts or keyed
    assert killed.counts.missing == clean.counts.missing == 0
    messages = sum(len(values) for values in topic.partitions.values())
    assert clean.counts.rows_in + clean.counts.outside == messages
    forecasts = by_key(clean.forecasts)
    assert_same(forecasts, found, swings(forecasts, scale))
    assert sorted_rows(killed.late).equals(sorted_rows(clean.late))
    assert sorted_rows(killed.quarantined).equals(sorted_rows(clean.quarantined))


@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(lateness_h=st.integers(0, 2), data=st.data())
def test_what_the_furthest_shard_had_closed_stays_closed_to_a_partition_that_comes_up_between_lives(
    lateness_h: int, data: st.DataObject
) -> None:
    topic, scale, start = data.draw(topics(keyed=False))
    topic.there = {0: 0}
    model = forecaster(aggregate="sum", allowed_lateness=f"{lateness_h}h")
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, start, Path(name), lateness_h, poll_rows=5, idle_s=30)
        killed = lived(model, source, topic, 3, data.draw, between=True)
        clean = whole(model, replace(source, poll_rows=10**6), topic)
    assert_same_ran(killed, clean, topic, scale, keyed=False)


@pytest.mark.parametrize("keyed", [False, True])
@settings(max_examples=4, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(data=st.data())
def test_a_partition_that_comes_up_is_waited_for_in_whatever_order_batches_come(
    keyed: bool, data: st.DataObject
) -> None:
    topic, scale, start = data.draw(topics(keyed))
    topic.there = dict.fromkeys(range(SHARDS if keyed else 1), 0)
    model = forecaster(aggregate="sum")
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, start, Path(name), 2, poll_rows=5, idle_s=30, look_s=0)
        source = replace(source, keyed_shards=SHARDS if keyed else None)
        shards, places = opened(model, source, began(source, []), [Disk() for _ in range(SHARDS)])
        batches = [*read(source, places, Clock(), at_once=2, comes_up=0.3)]
    parts = [
        [b for b in batches if b.partition == one] for one in dict.fromkeys(b.partition for b in batches)
    ]
    # in the last a shard hears of each partition when it has all of those before
    orders = [batches, interleaved(data.draw, parts), [batch for part in parts for batch in part]]
    ran = [Ran([shard.copy() for shard in shards]) for _ in orders]
    for one, order in zip(ran, orders, strict=True):
        for number in range(SHARDS):
            fold_on(model, one, number, order)
    forecasts = by_key(ran[0].forecasts)
    for other in ran[1:]:
        assert not any(shard.early for shard in other.shards)
        assert other.counts == ran[0].counts
        assert_same(forecasts, by_key(other.forecasts), swings(forecasts, scale))
        assert sorted_rows(other.late).equals(sorted_rows(ran[0].late))
        assert sorted_rows(other.quarantined).equals(sorted_rows(ran[0].quarantined))


def test_an_idle_partition_is_carried_on_and_its_late_row_is_late() -> None:
    model = forecaster()
    rows = pl.DataFrame(
        {
            "series_id": ["a"] * 9,
            "timestamp": [(START + 5 + h) * HOUR_US for h in range(9)],
            "value": [1.0] * 9,
        }
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    busy, idle = values_of(rows), values_of(rows.with_columns(series_id=pl.lit("b")))[:2]
    topic, clock = Topic({0: busy, 1: idle}, {0: 5, 1: 1}), Clock()
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, START, Path(name), 0, idle_s=30)
        reading, places = Reading(source, clock), began(source, [])
        for _ in range(99):
            places = reading.step(places).places
        assert places["rows-1"].watermark_us == (START + 5) * HOUR_US
        clock.now_s += 31
        topic.there[0] = 6  # it is busy, with whatever has not been read
        batches: list[Batch] = []
        for _ in range(9):
            stride = reading.step(places)
            places, batches = stride.places, [*batches, *stride.batches]
        assert [(b.partition, b.start, b.stop) for b in batches] == [("rows-0", 5, 6), ("rows-1", 1, 1)]
        assert {b.watermark_us for b in batches} == {(START + 10) * HOUR_US}
        assert places["rows-1"] == Place(1, (START + 10) * HOUR_US)

        topic.fill()
        ran = whole(model, source, topic)
    assert sorted_rows(ran.late).select("series_id", "partition", "offset").rows() == [("b", "rows-1", 1)]
