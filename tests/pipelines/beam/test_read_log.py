"""Tests of `ReadLog`, a Beam source of the batches of a log.

While the log has no new rows, the source waits, in one of two ways that depend on the engine. It defers the
rest of its restriction, which is Beam's word for a part of the input, or it sets a timer. Both ways must
give the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.beam import read_log
from pipelines.beam.read_log import ReadLog, _Position, _ReadByDeferral, _ReadByTimer
from pipelines.sources.base import Log, Position, Positions, Step


@dataclass(frozen=True)
class Counted:
    """A log with ``rows`` empty batches of one offset each; the reader waits 0.01 s after each batch."""

    rows: int
    is_paced: bool = True

    def begin(self, reached: Positions) -> Positions:
        return {"log": Position(0)}

    def step(self, places: Positions) -> Step[Positions] | None:
        place = places["log"]
        if place.offset == self.rows:
            return None
        moved = {"log": place._replace(offset=place.offset + 1, watermark_us=7 * place.offset, cuts=(9, 11))}
        return Step((replace(empty_batch("log", place.offset), stop=place.offset + 1),), moved, 0.01)


@dataclass
class Cell:
    """A fake that replaces both an engine's state cell, which stores a value, and an engine's timer."""

    value: str = ""
    set_s: list[float] = field(default_factory=list)

    def read(self) -> str:
        return self.value

    def write(self, value: str) -> None:
        self.value = value

    def set(self, at_s: float) -> None:
        self.set_s.append(at_s)


@dataclass
class Tracked(read_log._PlacesTracker):
    """A replacement of an engine's restriction tracker that only records each deferral."""

    places: str
    waits: list[Any] = field(default_factory=list)

    def defer_remainder(self, wait: Any) -> None:
        self.waits.append(wait)


def read_by_deferral(read: ReadLog, start: str, estimator: Any = None) -> Iterator[Any]:
    step, at = _ReadByDeferral(read), start
    step.setup()
    while True:
        tracker = Tracked(at)
        yield from step.process("", tracker, estimator)
        if not tracker.waits:
            return tracker.check_done()
        at = tracker.places


def read_by_timer(read: ReadLog, start: str) -> Iterator[Batch]:
    step, places, again = _ReadByTimer(read), Cell(), Cell()
    step.setup()
    step.process(("", start), places, again)
    while again.set_s:
        again.set_s.clear()
        yield from step.on_again(places, again)


def starting_table(log: Log) -> str:
    return _Position.start(log.begin({})).encoded()


@pytest.mark.parametrize("stop_at", [None, 3])
def test_log_reads_by_timer_and_deferral_give_equal_batches(tmp_path: Path, stop_at: int | None) -> None:
    log, stop = Counted(5), tmp_path / ".stop"
    start = starting_table(log)
    made = []
    for read_with in (read_by_deferral, read_by_timer):
        stop.unlink(missing_ok=True)
        read = ReadLog(
            log, log.begin({}), stop, moves_watermark=False, applied=lambda: {"log": 99}, output=tmp_path
        )
        batches = []
        for batch in read_with(read, start):
            batches.append((batch.start, batch.stop, batch.snapshot, batch.ends))
            if batch.stop == stop_at:
                stop.touch()
        made.append(batches)
    last = 5 if stop_at is None else stop_at
    assert made[0] == [
        (0, 0, False, False),
        *((n, n + 1, False, False) for n in range(last)),
        (last, last, True, True),
    ]
    assert made[1] == made[0]


@dataclass(frozen=True)
class Staggered:
    """A log of two partitions whose watermarks move at different times."""

    is_paced: bool = True
    watermarks_us = (("a", 5), ("b", 3), ("b", 9), ("a", 7))

    def begin(self, reached: Positions) -> Positions:
        return {"a": Position(0), "b": Position(0)}

    def step(self, places: Positions) -> Step[Positions] | None:
        number = sum(place.offset for place in places.values())
        if number == len(self.watermarks_us):
            return None
        name, us = self.watermarks_us[number]
        place = places[name]
        batch = replace(empty_batch(name, place.offset), stop=place.offset + 1, watermark_us=us)
        return Step((batch,), {**places, name: place._replace(offset=place.offset + 1)})


@dataclass
class Estimator:
    """A fake watermark estimator of an engine, which records each watermark."""

    set_us: list[int] = field(default_factory=list)

    def set_watermark(self, at: Timestamp) -> None:
        self.set_us.append(at.micros)


def test_the_engine_watermark_is_the_least_partition_watermark() -> None:
    estimator, stamped = Estimator(), []
    for element in read_by_deferral(ReadLog(Staggered()), starting_table(Staggered()), estimator):
        at_us = element.timestamp.micros if isinstance(element, TimestampedValue) else None
        batch = element.value if isinstance(element, TimestampedValue) else element
        stamped.append((batch.partition, batch.watermark_us, at_us))
    # The event time of a batch is the engine's watermark before the batch, or None if there is none yet.
    # If the event time were earlier than this watermark, the engine would treat the batch as late.
    assert [each for each in stamped if each[1] is not None] == [
        ("a", 5, None),
        ("b", 3, None),
        ("b", 9, 3),
        ("a", 7, 5),
    ]
    assert list(dict.fromkeys(estimator.set_us)) == [3, 5, 7]


def test_read_log_returns_every_batch_from_offset_0_on(tmp_path: Path) -> None:
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        batches = pipeline | ReadLog(Counted(5))
        offsets = batches | beam.Map(lambda batch: f"{batch.start}-{batch.stop}")
        offsets | beam.Map(lambda text: (tmp_path / text).touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-0",
        "0-1",
        "1-2",
        "2-3",
        "3-4",
        "4-5",
        "5-5",
    ]
