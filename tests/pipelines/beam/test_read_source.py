"""An engine reads a source again by a deferral or by a timer; both ways give equal batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.beam import read_source as reading
from pipelines.beam.read_source import ReadSource, ReadSourceByTimer, _StepSource, _StepSourceByTimer
from pipelines.sources.base import LogStep, Position, Positions


@dataclass(frozen=True)
class Counted:
    """A log of ``rows`` batches of one row each, with a wait after each batch."""

    rows: int
    is_paced: bool = True

    def begin(self, reached: Positions) -> Positions:
        return {"log": Position(0)}

    def step(self, places: Positions) -> LogStep | None:
        place = places["log"]
        if place.offset == self.rows:
            return None
        moved = {"log": place._replace(offset=place.offset + 1, watermark_us=7 * place.offset, cuts=(9, 11))}
        return LogStep((replace(empty_batch("log", place.offset), stop=place.offset + 1),), moved, 0.01)


@dataclass
class Cell:
    """A stand-in for a state cell and a timer of an engine."""

    value: str = ""
    set_s: list[float] = field(default_factory=list)

    def read(self) -> str:
        return self.value

    def write(self, value: str) -> None:
        self.value = value

    def set(self, at_s: float) -> None:
        self.set_s.append(at_s)


@dataclass
class Tracked(reading._PlacesTracker):
    """A stand-in for a restriction tracker of an engine, which records each deferral."""

    places: str
    waits: list[Any] = field(default_factory=list)

    def defer_remainder(self, wait: Any) -> None:
        self.waits.append(wait)


def read_by_deferral(read: ReadSource, start: str) -> Iterator[Batch]:
    step, at = _StepSource(read), start
    step.setup()
    while True:
        tracker = Tracked(at)
        yield from step.process("", tracker)
        if not tracker.waits:
            return tracker.check_done()
        at = tracker.places


def read_by_timer(read: ReadSource, start: str) -> Iterator[Batch]:
    step, places, again = _StepSourceByTimer(read), Cell(), Cell()
    step.setup()
    step.process(("", start), places, again)
    while again.set_s:
        again.set_s.clear()
        yield from step.on_again(places, again)


@pytest.mark.parametrize("stop_at", [None, 3])
def test_reading_by_timer_and_by_deferral_gives_equal_batches(tmp_path: Path, stop_at: int | None) -> None:
    log, stop = Counted(5), tmp_path / ".stop"
    start = reading._encoded(log.begin({}))
    made = []
    for kind, read_with in ((ReadSource, read_by_deferral), (ReadSourceByTimer, read_by_timer)):
        stop.unlink(missing_ok=True)
        read = kind(log, log.begin({}), tmp_path, lambda: {"log": 99}, stop, 1e9)
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
