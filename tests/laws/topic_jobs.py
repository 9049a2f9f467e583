"""Jobs that read a topic in memory: killed again and again, or whole and at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import announced
from pipelines.settings.kafka import Broker
from pipelines.sources.base import Place, Places
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import Reader
from pipelines.state.state_table import StateTable
from tests.disks import Disk, outputs
from tests.fleets import HALF_A_DAY, HALF_A_DAY_US
from tests.folds import Ran
from tests.topics import Topic

SHARDS = 3


@dataclass(eq=False)
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def source_of(topic: Topic, start: int, folder: Path, lateness: int, **more: Any) -> KafkaSource:
    # The first two windows lie outside, and count.
    how = Input(Columns(), start_us=(start + 2) * HALF_A_DAY_US, max_future_s=3600)
    return KafkaSource(
        Broker("nowhere:9092"),
        "rows",
        DecoderSpec(),
        how,
        HALF_A_DAY,
        folder,
        lateness * HALF_A_DAY.seconds,
        opens=topic,
        **more,
    )


def began(source: KafkaSource, shards: list[Shard]) -> Places:
    reached = StateTable(tuple(shards)).reached()
    return source.begin({name: Place(*found) for name, found in reached.items()})


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
        take_all(model, ran, number, batches)
    return ran


def take_all(model: Forecaster, ran: Ran, number: int, batches: Iterable[Batch]) -> None:
    """Has one of the shards take batches."""
    for shard, output in outputs(model, ran.shards[number], batches, 4):
        ran.shards[number] = shard
        ran.take(output)
