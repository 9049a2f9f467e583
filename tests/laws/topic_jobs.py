"""Functions that run a job over a topic in memory, and may kill and resume the job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.lateness import BEFORE
from forecaster.shards.models import Models
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import add_partitions, empty_batch
from pipelines.settings.kafka import Broker
from pipelines.sources.base import Position, Positions
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import Reader
from pipelines.state.state_table import StateTable
from tests.comparisons import sorted_rows
from tests.disks import Disk, outputs
from tests.fleets import HALF_A_DAY, HALF_A_DAY_US
from tests.folds import Ran
from tests.topics import Topic

SHARDS = 3


@dataclass(eq=False)
class Clock:
    """A clock that a test sets."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def source_of(topic: Topic, start: int, folder: Path, lateness: int, **more: Any) -> KafkaSource:
    """Return a Kafka source of a topic.

    Args:
        topic: the topic.
        start: the first window of the topic.
        folder: the folder of the source's journal.
        lateness: the lateness in half days.
        more: further fields of the source.
    """
    # The job's time range begins two windows after the topic's first window, so some rows are outside it.
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


def places_to_resume(source: KafkaSource, shards: list[Shard]) -> Positions:
    """Return the position in each partition at which a job resumes reading if its shards are ``shards``."""
    reached = StateTable(tuple(shards)).progress_by_partition()
    return source.begin({name: Position(*found) for name, found in reached.items()})


def is_read(source: KafkaSource, topic: Topic, places: Positions, numbers: Iterable[int]) -> bool:
    """Return True if a job at ``places`` has read all messages of each partition in ``numbers``.

    All messages include the messages that arrive later.
    """
    ends = {source.name(number): len(topic.partitions[number]) for number in numbers}
    return all(name in places and places[name].offset == end for name, end in ends.items())


def read(
    source: KafkaSource,
    places: Positions,
    clock: Clock,
    most_messages: int = 9,
    partition_probability: float = 0.1,
) -> Iterator[Batch]:
    """Yield the batches of one run of a job, which ends when it has read all messages of the topic.

    The topic changes while it is read. Between two steps, the clock moves by a random time, each partition
    gets at most ``most_messages`` new messages, and with the probability ``partition_probability`` a new
    partition appears. With the probability 0, no partition appears, and the run ends when it has read all
    messages of the existing partitions.
    """
    reading, topic = Reading(source, clock), source.opens
    assert isinstance(topic, Topic)
    yield from Reader(reading, Path("/nowhere"), 1e9).next(places).batches  # type: ignore[arg-type]
    awaited = topic.partitions if partition_probability else topic.there
    while not is_read(source, topic, places, awaited):
        following = len(topic.there)
        if following < len(topic.partitions) and topic.chance.random() < partition_probability:
            topic.there[following] = 0
        for number in topic.there:
            most = len(topic.partitions[number]) - topic.there[number]
            if topic.chance.random() < 0.6:  # else the partition gets no new message in this step
                topic.there[number] += int(topic.chance.integers(0, min(most, most_messages) + 1))
        clock.now_s += float(topic.chance.choice([0.1, 1.0, 40.0]))
        step = reading.step(places)
        yield from step.batches
        places = step.reached


def with_partitions(shard: Shard, places: Positions) -> Shard:
    """Return a copy of the shard that also follows the partitions in ``places``.

    A batch that announces partitions has the same effect. Partitions that belong to another shard are left
    out.
    """
    owners = {name: place.shard for name, place in places.items() if place.shard is not None}
    return add_partitions(shard, {name: place.offset for name, place in places.items()}, owners)


def resume(
    model: Forecaster, source: KafkaSource, first: Positions, disks: Iterable[Disk]
) -> tuple[list[Shard], Positions]:
    """Return the shards with which a run starts, and the positions from which it reads.

    Every shard gets its partitions, as in the state table that `write_first_table` writes. ``first`` holds
    the positions from which the first run read. A shard without a snapshot starts from these.
    """
    cold = [Shard.cold(number, SHARDS, model.initial_state(), ()) for number in range(SHARDS)]
    shards = [disk.restore(with_partitions(shard, first)) for disk, shard in zip(disks, cold, strict=True)]
    places = places_to_resume(source, shards)
    return [with_partitions(shard, places) for shard in shards], places


def deliver(batches: Iterable[Batch], often: float, chance: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches in a random order, as an engine may deliver a later batch before an earlier one."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        while held and chance.random() < often:
            yield held.pop(int(chance.integers(0, len(held))))
    while held:
        yield held.pop(int(chance.integers(0, len(held))))


def run_with_kills(
    model: Forecaster,
    source: KafkaSource,
    topic: Topic,
    kills: int,
    draw: Any,
    grows_between: bool = False,
    repair: int = 0,
) -> Ran:
    """Run a job over a topic, kill and resume it ``kills`` times, and return the outputs of all its runs.

    A kill ends each shard after another number of batches. With ``grows_between``, new partitions appear only
    between a kill and the next run.
    """
    models = Models(model, repair=repair)
    pace = (2, 0.0) if grows_between else (9, 0.1)
    first = source.begin({})
    disks, clock = [Disk() for _ in range(SHARDS)], Clock()
    for run_number in range(kills + 1):
        is_last = run_number == kills
        if grows_between and run_number:
            topic.there[run_number] = 0
        shards, places = resume(model, source, first, disks)
        batches = read(source, places, clock, *pace)
        read_so_far = [*islice(batches, None if is_last else draw(st.integers(0, 80)))]
        often, in_order = draw(st.sampled_from([0.1, 0.5])), draw(st.sampled_from([0.2, 0.7, 1.0]))
        per_step = draw(st.integers(1, 9))
        for number in range(SHARDS):
            left = None if is_last else draw(st.integers(0, 60))
            mine = deliver(read_so_far, in_order, topic.chance)
            for after, output in islice(outputs(models, shards[number], mine, per_step), left):
                shards[number] = after
                disks[number].write(output)
                if topic.chance.random() < often:
                    disks[number].snapshot = after.copy()
    assert not any(shard.early for shard in shards)
    return Ran(
        shards,
        [one for disk in disks for one in (*disk.forecasts.values(), *disk.revised.values())],
        [rows for disk in disks for rows in disk.late.values()],
        [rows for disk in disks for rows in disk.quarantined.values()],
    )


def run_without_kills(model: Forecaster, source: KafkaSource, topic: Topic) -> Ran:
    """Run a job over a topic without kills; the job reads from a journal when partitions became idle.

    An earlier job over the same topic has written this journal.
    """
    ran, batches = _read_whole(model, source, topic)
    for number in range(SHARDS):
        apply_all(model, ran, number, batches)
    return ran


def run_in_time(model: Forecaster, source: KafkaSource, topic: Topic, earlier: Ran) -> Ran:
    """Run a job over the rows of a topic that were not late in the run ``earlier``; here no row is late.

    The watermarks come after all rows. They are the last watermarks of the run ``earlier``.
    """
    ran, batches = _read_whole(model, source, topic)
    late = sorted_rows(earlier.late)
    in_time, stops = [], dict[str, int]()
    for batch in batches:
        rows = batch.rows.drop(BEFORE, strict=False)
        if len(late):
            own = late.filter(pl.col("partition") == batch.partition)["offset"]
            rows = rows.filter(~pl.col("offset").is_in(own.implode()))
        in_time.append(replace(batch, rows=rows, watermark_us=None, before_us=None))
        stops[batch.partition] = max(batch.stop, stops.get(batch.partition, 0))
    for number, shard in enumerate(earlier.shards):
        last = [
            replace(empty_batch(name, stop), watermark_us=shard.watermarks[name])
            for name, stop in stops.items()
        ]
        apply_all(model, ran, number, [*in_time, *last])
    return ran


def _read_whole(model: Forecaster, source: KafkaSource, topic: Topic) -> tuple[Ran, list[Batch]]:
    """Fill the topic; return new shards and all batches of the topic."""
    topic.fill()
    shards, places = resume(model, source, source.begin({}), [Disk() for _ in range(SHARDS)])
    ran = Ran(shards)
    reading = Reading(source, Clock())
    batches = [*Reader(reading, Path("/nowhere"), 1e9).next(places).batches]  # type: ignore[arg-type]
    while not is_read(source, topic, places, topic.partitions):
        step = reading.step(places)
        batches += step.batches
        places = step.reached
    return ran, batches


def apply_all(model: Forecaster, ran: Ran, number: int, batches: Iterable[Batch]) -> None:
    """Apply batches to the shard ``number`` of ``ran``; store the new shard and the outputs in ``ran``."""
    for shard, output in outputs(model, ran.shards[number], batches, 4):
        ran.shards[number] = shard
        ran.take(output)
