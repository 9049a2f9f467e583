"""A log as a Beam source of `Batch`es: one splittable DoFn reads them all; on Flink a timer that sets itself.

Beam's Flink runner up to 2.70 keeps every remainder that is deferred under a state of its own, a column
family of RocksDB's, and forgets none (github.com/apache/beam/issues/27648). A stream makes some a second,
each checkpoint holds them all, and Flink takes 32,767. A timer has one name.

That timer is one of event time, which has come to its end there when the only element is in: so it fires as
soon as it is set. One of processing time the runner would drop by then, as late.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Duration

from forecaster.shards.batch import Batch
from pipelines.sources.base import Log, Position, Positions
from pipelines.sources.reader import LONGEST_WAIT_S, Read, Reader
from pipelines.storage import Location
from pipelines.workers.failure import store_worker_error

_DONE = "done"
_SHORT_S = 0.05
_AT_ONCE = 0


@dataclass
class ReadSource(beam.PTransform[Any, Any]):
    """The batches of a log, until it ends or is asked to stop: ``PBegin -> PCollection[Batch]``.

    The watermark that closes windows travels in the batches; the engine's own stays at the beginning of time
    and goes to its end with the source, and nothing depends on it.

    Attributes:
        log: what is read.
        places: where to begin.
        output: output folder of the job, where what goes wrong is left.
        applied: how far every shard has come in each partition; see `pipelines.sources.reader.Reader`.
        stop_file: its appearance ends the reading.
        snapshot_every_s: seconds between two snapshots.
    """

    log: Log
    places: Positions
    output: Location
    applied: Callable[[], Mapping[str, int]]
    stop_file: Location
    snapshot_every_s: float

    def expand(self, begin: Any) -> Any:
        """One element, the places, read by one splittable DoFn."""
        return (
            begin
            | "Positions" >> beam.Create([_encoded(self.places)], reshuffle=False)
            | "Step" >> beam.ParDo(_StepSource(self)).with_output_types(Batch)
        )


@dataclass
class ReadSourceByTimer(ReadSource):
    """The same, for an engine that is better at timers than at what is deferred; see the module."""

    def expand(self, begin: Any) -> Any:
        """One element, the places, kept in the state of one key, whose timer reads."""
        return (
            begin
            | "Positions" >> beam.Create([("", _encoded(self.places))], reshuffle=False)
            | "Step" >> beam.ParDo(_StepSourceByTimer(self)).with_output_types(Batch)
        )


def _encoded(places: Positions) -> str:
    return json.dumps(places, separators=(",", ":"))


def _decoded(places: str) -> Positions:
    found = json.loads(places)
    return {
        name: Position(offset, us, tuple(cuts), *rest) for name, (offset, us, cuts, *rest) in found.items()
    }


class _PlacesTracker(RestrictionTracker):
    """A restriction that is the places to go on from. It splits only at 0, which is what deferring does."""

    def __init__(self, places: str) -> None:
        self.places = places

    def current_restriction(self) -> str:
        return self.places

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(completed=0, remaining=1)

    def try_claim(self, places: str) -> bool:
        if self.places == _DONE:
            return False
        self.places = places
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[str, str] | None:
        if self.places == _DONE or fraction_of_remainder != 0:
            return None
        rest, self.places = self.places, _DONE
        return _DONE, rest

    def check_done(self) -> None:
        if self.places != _DONE:
            raise ValueError(f"the source stands at {self.places} and was neither deferred nor ended")

    def is_bounded(self) -> bool:
        return False


class _AllPlaces(RestrictionProvider):
    def initial_restriction(self, element: str) -> str:
        return element

    def create_tracker(self, restriction: str) -> _PlacesTracker:
        return _PlacesTracker(restriction)

    def restriction_size(self, element: str, restriction: str) -> int:
        return 1

    def restriction_coder(self) -> StrUtf8Coder:
        return StrUtf8Coder()

    def truncate(self, element: str, restriction: str) -> None:
        return None


_PLACES, _WATERMARKS = _AllPlaces(), ManualWatermarkEstimator.default_provider()


class _Steps(beam.DoFn):
    """What reads, whatever has it come back."""

    reader: Reader

    def __init__(self, read: ReadSource) -> None:
        self.read = read

    def setup(self) -> None:
        read = self.read
        self.reader = Reader(read.log, read.stop_file, read.snapshot_every_s, read.applied)

    def next(self, places: Positions) -> Read:
        """What is next. A short wait is waited for here: to come back costs an engine more.

        A long one is not: for as long as a bundle runs, Prism asks it ten times a second how far it is.
        """
        until_s = time.monotonic() + LONGEST_WAIT_S
        with store_worker_error(self.read.output):
            while True:
                read = self.reader.next(places)
                if read.batches or read.ended or read.wait_s > _SHORT_S or time.monotonic() > until_s:
                    return read
                time.sleep(max(read.wait_s, 0.001))


class _StepSource(_Steps):
    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(_PLACES),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(_WATERMARKS),
    ) -> Iterator[Batch]:
        places = tracker.current_restriction()
        if places == _DONE:
            return
        read = self.next(_decoded(places))
        if not tracker.try_claim(_DONE if read.ended else _encoded(read.places)):
            return
        yield from read.batches
        if not read.ended:
            tracker.defer_remainder(Duration.of(round(read.wait_s, 3)) if read.wait_s else None)


class _StepSourceByTimer(_Steps):
    PLACES = ReadModifyWriteStateSpec("places", StrUtf8Coder())
    AGAIN = TimerSpec("again", TimeDomain.WATERMARK)

    due_s = 0.0

    def process(
        self,
        element: tuple[str, str],
        places: Any = beam.DoFn.StateParam(PLACES),
        again: Any = beam.DoFn.TimerParam(AGAIN),
    ) -> None:
        places.write(element[1])
        again.set(_AT_ONCE)

    @on_timer(AGAIN)
    def on_again(
        self, places: Any = beam.DoFn.StateParam(PLACES), again: Any = beam.DoFn.TimerParam(AGAIN)
    ) -> Iterator[Batch]:
        """Reads on, and has itself called again unless that was the end."""
        time.sleep(max(self.due_s - time.monotonic(), 0))
        read = self.next(_decoded(places.read()))
        yield from read.batches
        if not read.ended:
            places.write(_encoded(read.places))
            self.due_s = time.monotonic() + read.wait_s  # what was read goes on now: it is waited next time
            again.set(_AT_ONCE)
