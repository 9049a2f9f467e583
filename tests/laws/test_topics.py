"""Law: a topic, and what is written down of its idle partitions, decide all; polls, kills, clocks nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import snapshot
from forecaster.model import Forecaster
from forecaster.shard import Batch, Shard
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
    HOUR_US,
    START,
    Floats,
    Key,
    Ran,
    assert_same,
    by_key,
    fleets,
    forecaster,
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
def topics(draw: st.DrawFn) -> tuple[Topic, dict[str, float], int]:
    """Rows on four partitions of uneven speed, some late, some no rows; scales; the first window."""
    fleet = draw(fleets(series=4, windows=10))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rows_of(fleet)
    delay_us = draw(st.integers(0, 4)) * HOUR_US
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    rows = rows[np.argsort(event_us + chance.integers(0, delay_us + 1, len(rows)), kind="stable")]
    share = [0.6, 0.3, 0.1, 0.0] if draw(st.booleans()) else [0.4, 0.3, 0.2, 0.1]
    home = pl.Series(chance.choice(4, len(rows), p=share))
    partitions = {}
    for number in range(4):
        values = values_of(rows.filter(home == number))
        for at in sorted(chance.integers(0, len(values) + 1, int(chance.integers(0, 3)))):
            values.insert(int(at), chance.choice(np.array([b"nope", b'{"value": 5}'], object)))
        partitions[number] = values
    return Topic(partitions, dict.fromkeys(partitions, 0), chance), scales(fleet), fleet.start


def source_of(topic: Topic, start: int, folder: Path, lateness_h: int, **more: Any) -> KafkaSource:
    # The first five hours lie outside, and count.
    how = Input(Columns(), start_us=(start + 5) * HOUR_US, max_future_s=3600)
    return KafkaSource(
        Broker("nowhere:9092"),
        "rows",
        DecoderSpec(),
        how,
        3600,
        folder,
        lateness_h * 3600,
        opens=topic,
        **more,
    )


def began(source: KafkaSource, shards: list[Shard]) -> Places:
    reached = StateTable(tuple(shards)).reached()
    return source.begin({name: Place(*place) for name, place in reached.items()})


def read(source: KafkaSource, places: Places, clock: Clock, draw: Any) -> Iterator[Batch]:
    """The batches of a run that lives until all is there and read, with whatever its clock says."""
    reading, topic = Reading(source, clock), source.opens
    assert isinstance(topic, Topic)
    yield from Reader(reading, Path("/nowhere"), 1e9).next(places).batches  # type: ignore[arg-type]
    while any(places[source.name(p)].offset < len(v) for p, v in topic.partitions.items()):
        for number in topic.there:
            most = len(topic.partitions[number]) - topic.there[number]
            topic.there[number] += int(topic.chance.integers(0, min(most, 9) + 1))
        clock.now_s += float(topic.chance.choice([0.1, 1.0, 40.0]))
        stride = reading.step(places)
        yield from stride.batches
        places = stride.places


def cold(model: Forecaster, topic: Topic) -> list[Shard]:
    names = [f"rows-{number}" for number in topic.partitions]
    made = [Shard.cold(number, SHARDS, model.initial_state(), names) for number in range(SHARDS)]
    return [replace(shard, offsets=dict.fromkeys(names, 0)) for shard in made]


def lived(model: Forecaster, source: KafkaSource, topic: Topic, lives: int, draw: Any) -> Ran:
    """A job that is killed again and again, each shard at a moment of its own."""
    disks, clock = [Disk() for _ in range(SHARDS)], Clock()
    for life in range(lives + 1):
        shards = [disk.opened(shard) for disk, shard in zip(disks, cold(model, topic), strict=True)]
        often = draw(st.sampled_from([0.1, 0.5]))
        left = [10**9 if life == lives else draw(st.integers(0, 15)) for _ in range(SHARDS)]
        per_step = draw(st.integers(1, 9))
        for batch in read(source, began(source, shards), clock, draw):
            for number in range(SHARDS):
                for after, output in outputs(model, shards[number], [batch], per_step):
                    if left[number] > 0:
                        left[number] -= 1
                        disks[number].write(output)
                        if topic.chance.random() < often:
                            disks[number].snapshot = snapshot.to_bytes(after)
                    shards[number] = after
            if max(left) <= 0:
                break
    return Ran(
        shards,
        [one for disk in disks for one in disk.forecasts.values()],
        [rows for disk in disks for rows in disk.late.values()],
        [rows for disk in disks for rows in disk.quarantined.values()],
    )


def whole(model: Forecaster, source: KafkaSource, topic: Topic) -> Ran:
    """The same topic read at once, with what was written down of it."""
    topic.fill()
    ran = Ran(cold(model, topic))
    places = began(source, ran.shards)
    reading = Reading(source, Clock())
    batches = [*Reader(reading, Path("/nowhere"), 1e9).next(places).batches]  # type: ignore[arg-type]
    while any(places[source.name(p)].offset < len(v) for p, v in topic.partitions.items()):
        stride = reading.step(places)
        batches += stride.batches
        places = stride.places
    for number in range(SHARDS):
        for shard, output in outputs(model, ran.shards[number], batches, 4):
            ran.shards[number] = shard
            ran.take(output)
    return ran


def swings(forecasts: dict[Key, Floats], scale: dict[str, float]) -> dict[str, float]:
    """How much forecasts of each series move: sums without their late rows move more than the fleet does."""
    found = dict(scale)
    for name in {series for series, _ in forecasts}:
        values = np.stack([one for (series, _), one in forecasts.items() if series == name])
        found[name] = max(scale[name], float(np.ptp(values)))
    return found


def late(ran: Ran) -> pl.DataFrame:
    """Late rows; how late is told by the batch that brought them, and polls make these."""
    return sorted_rows([rows.drop("late_s") for rows in ran.late])


@settings(max_examples=12)
@given(made=topics(), kills=st.integers(0, 5), lateness_h=st.integers(0, 2), data=st.data())
def test_polls_kills_and_clocks_change_nothing_but_what_is_written_down(
    made: tuple[Topic, dict[str, float], int], kills: int, lateness_h: int, data: st.DataObject
) -> None:
    topic, scale, start = made
    model = forecaster(aggregate="sum", allowed_lateness=f"{lateness_h}h")
    with tempfile.TemporaryDirectory() as name:
        source = source_of(
            topic, start, Path(name), lateness_h, poll_rows=data.draw(st.integers(2, 30)), idle_s=30
        )
        killed = lived(model, source, topic, kills, data.draw)
        clean = whole(model, replace(source, poll_rows=10**6), topic)
    assert killed.counts == clean.counts
    assert clean.counts.missing == 0
    messages = sum(len(values) for values in topic.partitions.values())
    assert clean.counts.rows_in + clean.counts.outside == messages
    forecasts = by_key(clean.forecasts)
    assert_same(forecasts, by_key(killed.forecasts), swings(forecasts, scale))
    assert late(killed).equals(late(clean))
    assert sorted_rows(killed.quarantined).equals(sorted_rows(clean.quarantined))


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
    assert late(ran).select("series_id", "partition", "offset").rows() == [("b", "rows-1", 1)]
