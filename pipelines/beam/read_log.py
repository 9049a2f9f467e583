"""Read a log in a Beam pipeline, and emit its batches, with a splittable DoFn or, on Flink, with a timer.

On Flink a timer reads the log, because of an error of Beam up to 2.70 (github.com/apache/beam/issues/27648):
its Flink runner keeps each deferred remainder of a splittable DoFn in a new column family of RocksDB, and
never removes it. A stream defers several times a second, and Flink accepts 32,767 column families. A timer
needs only one.

The timer is an event-time timer. After the only input element, Flink's watermark is at its end, so the timer
fires as soon as it is set. The runner would drop a processing-time timer as late.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import largest_watermark, smallest_watermark
from pipelines.sources.base import Log, Position, Positions, Source, as_log
from pipelines.sources.reader import LONGEST_WAIT_S, Read, Reader
from pipelines.storage import Location
from pipelines.workers.failure import store_worker_error

_DONE = "done"
_SHORT_S = 0.05
_AT_ONCE = 0


@dataclass
class ReadLog(beam.PTransform[Any, Any]):
    """Read the batches of a log until it ends or the stop file appears: ``PBegin -> PCollection[Batch]``.

    A batch holds validated rows and rejected rows; `pipelines.Validate` and `pipelines.ForecastFleet` take
    batches as they are.

    >>> import apache_beam as beam
    >>> import polars as pl
    >>> from forecaster.time.frequency import Frequency
    >>> from pipelines import Columns, Input, ReadLog, ReplaySource, Validate
    >>> pl.DataFrame({
    ...     "series_id": ["a", "b", "a"],
    ...     "timestamp": ["2013-01-01T00:10Z", "2013-01-01T00:20Z", "2013-01-01T01:30Z"],
    ...     "value": [1.0, 20.0, 2.0],
    ... }).write_csv("rows.csv")
    >>> source = ReplaySource(("rows.csv",), Input(Columns()), Frequency(3600))
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     rows = (pipeline | ReadLog(source) | Validate())["good"]
    ...     _ = rows | beam.Map(lambda frame: print(frame.shape))
    (3, 3)

    Attributes:
        source: the source of rows, such as `pipelines.ReplaySource` or `pipelines.FolderSource`.
        places: the offset and the watermark from which each partition is read; None reads all from the start.
        stop_file: the reading ends when this file appears; None if only the end of the log ends it.
        moves_watermark: whether the engine's watermark follows the watermarks of the batches, as event-time
            timers and windows need. Jobs of Statecast use only the watermarks in the batches.
        snapshot_every_s: seconds between two batches that request a snapshot; used by jobs.
        applied: returns the offset up to which all shards have applied each partition, so that the reader
            waits for slow shards; used by jobs.
        output: output folder of a job, in which an error of the reader is stored; used by jobs.
        by_timer: whether a timer reads the log instead of a splittable DoFn; used by jobs on Flink. A timer
            cannot move the engine's watermark, so ``moves_watermark`` then has no effect.
    """

    source: Source | Log
    places: Positions | None = None
    stop_file: Location | None = None
    moves_watermark: bool = True
    snapshot_every_s: float = float("inf")
    applied: Callable[[], Mapping[str, int]] | None = None
    output: Location | None = None
    by_timer: bool = False

    def expand(self, begin: Any) -> Any:
        """Return the batches of the log, read from ``places`` on, or else from the beginning."""
        places = as_log(self.source).begin({}) if self.places is None else self.places
        start = _Position.start(places).encoded()
        if self.by_timer:
            keyed = begin | "Places" >> beam.Create([("", start)], reshuffle=False)
            return keyed | "Read" >> beam.ParDo(_ReadByTimer(self)).with_output_types(Batch)
        created = begin | "Places" >> beam.Create([start], reshuffle=False)
        return created | "Read" >> beam.ParDo(_ReadByDeferral(self)).with_output_types(Batch)


@dataclass(frozen=True)
class _Position:
    """The position in a log from which reading continues: an offset and a watermark for each partition.

    Attributes:
        places: the position from which each partition is read on.
        watermarks_us: the watermark of each partition so far; None before its first watermark.
    """

    places: Positions
    watermarks_us: Mapping[str, int | None]

    @staticmethod
    def start(places: Positions) -> _Position:
        """Return the position in the log at which reading starts; ``places`` has one for each partition."""
        return _Position(places, {name: place.watermark_us for name, place in places.items()})

    @staticmethod
    def decoded(text: str) -> _Position:
        """Decode a position from ``text``, the result of `encoded`."""
        places, watermarks = json.loads(text)
        return _Position({name: _place(*fields) for name, fields in places.items()}, watermarks)

    def encoded(self) -> str:
        """Encode the position as JSON."""
        return json.dumps([self.places, self.watermarks_us], separators=(",", ":"))

    def after(self, batch: Batch) -> _Position:
        """Return a copy in which the watermark of the batch's partition is at least the batch's watermark."""
        after_us = largest_watermark((self.watermarks_us.get(batch.partition), batch.watermark_us))
        return replace(self, watermarks_us={**self.watermarks_us, batch.partition: after_us})


def _place(offset: int, us: int | None, cuts: list[int], *rest: Any) -> Position:
    return Position(offset, us, tuple(cuts), *rest)


class _PlacesTracker(RestrictionTracker):
    """Beam's tracker of a position in the log; reading can be deferred, but the log cannot be split."""

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
            raise ValueError(f"reading from {self.places} has neither ended nor been deferred")

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


class _ReadBatches(beam.DoFn):
    """Base class of the two DoFns that read a log: `_ReadByDeferral` and `_ReadByTimer`."""

    reader: Reader

    def __init__(self, read: ReadLog) -> None:
        self.read = read

    def setup(self) -> None:
        read = self.read
        self.reader = Reader(as_log(read.source), read.stop_file, read.snapshot_every_s, read.applied)

    def next(self, places: Positions) -> Read:
        """Return the next batches of the log; if there are none yet, wait a short time for them.

        This method waits for a short time only. It then returns without batches, and the engine waits: while
        a method runs, Prism requests its progress ten times a second.
        """
        until_s = time.monotonic() + LONGEST_WAIT_S
        with self._errors_stored():
            while True:
                read = self.reader.next(places)
                if read.batches or read.ended or read.wait_s > _SHORT_S or time.monotonic() > until_s:
                    return read
                time.sleep(max(read.wait_s, 0.001))

    def _errors_stored(self) -> AbstractContextManager[None]:
        return nullcontext() if self.read.output is None else store_worker_error(self.read.output)


class _ReadByDeferral(_ReadBatches):
    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(_PLACES),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(_WATERMARKS),
    ) -> Iterator[Any]:
        text = tracker.current_restriction()
        if text == _DONE:
            return
        position = _Position.decoded(text)
        read = self.next(position.places)
        stamped, position = self._stamped(read.batches, position)
        position = replace(position, places=read.places)
        if not tracker.try_claim(_DONE if read.ended else position.encoded()):
            return
        yield from stamped
        if (
            self.read.moves_watermark
            and (us := smallest_watermark(position.watermarks_us.values())) is not None
        ):
            estimator.set_watermark(Timestamp(micros=us))
        if not read.ended:
            tracker.defer_remainder(Duration.of(round(read.wait_s, 3)) if read.wait_s else None)

    def _stamped(self, batches: Sequence[Batch], position: _Position) -> tuple[list[Any], _Position]:
        """Return the batches, each with the watermark before it as timestamp, and the position after them.

        Without `moves_watermark`, the batches have no timestamps, and ``position`` is returned unchanged.
        """
        if not self.read.moves_watermark:
            return [*batches], position
        stamped: list[Any] = []
        for batch in batches:
            before_us = smallest_watermark(position.watermarks_us.values())
            stamped.append(
                batch if before_us is None else TimestampedValue(batch, Timestamp(micros=before_us))
            )
            position = position.after(batch)
        return stamped, position


class _ReadByTimer(_ReadBatches):
    POSITION = ReadModifyWriteStateSpec("places", StrUtf8Coder())
    AGAIN = TimerSpec("again", TimeDomain.WATERMARK)

    due_s = 0.0

    def process(
        self,
        element: tuple[str, str],
        position: Any = beam.DoFn.StateParam(POSITION),
        again: Any = beam.DoFn.TimerParam(AGAIN),
    ) -> None:
        position.write(element[1])
        again.set(_AT_ONCE)

    @on_timer(AGAIN)
    def on_again(
        self, position: Any = beam.DoFn.StateParam(POSITION), again: Any = beam.DoFn.TimerParam(AGAIN)
    ) -> Iterator[Batch]:
        """Emit the next batches of the log, and set the timer again unless the log has ended."""
        time.sleep(max(self.due_s - time.monotonic(), 0))
        at = _Position.decoded(position.read())
        read = self.next(at.places)
        yield from read.batches
        if not read.ended:
            position.write(replace(at, places=read.places).encoded())
            # The next call waits for more rows, because the engine passes on these batches only when this
            # call ends.
            self.due_s = time.monotonic() + read.wait_s
            again.set(_AT_ONCE)
