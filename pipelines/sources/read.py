"""Files and feeds as Beam sources of `Batch`es."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp

from pipelines.coders import Batch
from pipelines.process import SideBySide
from pipelines.sinks.metrics import counter
from pipelines.sources.feeds import Feed, Input
from schemas import observations
from schemas.errors import DataError

POSITION = "position"

# A feed's position as a restriction: marked where reading begins, and never "", which Beam takes for no rest.
_BEGIN, _NOWHERE, _DONE = "\x00begin", "\x00nowhere", "\x00done"
# Where no row ever comes, the shards are opened by it all the same, and what the state table holds of them
# goes into the next one.
_OPENING = Batch(observations.empty())

_LONGEST_WAIT_S = 1.0  # how long a stop can go unseen


@dataclass
class ReadFiles(beam.PTransform[Any, Any]):
    """The rows of files, for a bounded job: ``PBegin -> PCollection[Batch]``."""

    paths: tuple[str, ...]
    input: Input

    def expand(self, begin: Any) -> Any:
        """One element a file, then its batches."""
        return (
            begin
            | "Files" >> beam.Create(self.paths, reshuffle=False)
            | "Read" >> beam.ParDo(_ReadFile(self.input)).with_output_types(Batch)
        )


class _ReadFile(beam.DoFn):
    def __init__(self, input_: Input) -> None:
        self.input = input_
        self.rows_in, self.outside, self.bad = (counter(n) for n in ("rows_in", "outside", "bad_files"))

    def process(self, path: str) -> Iterator[Batch]:
        opens_shards = False
        ahead: SideBySide[tuple[pl.DataFrame, int]] = SideBySide()  # read on while the gate is at work
        ahead.start(iter(self.input.read(Path(path))))
        try:
            for raw, outside in ahead.results(until=0):
                self.rows_in.inc(len(raw))
                self.outside.inc(outside)
                yield Batch(raw)
                opens_shards = True
        except DataError:
            if not self.input.skip_bad_files:
                raise
            self.bad.inc()
        if not opens_shards:
            yield _OPENING


@dataclass
class ReadFeed(beam.PTransform[Any, Any]):
    """The rows of a feed, for an unbounded job, until it ends or ``stop_file`` appears.

    ``PBegin -> {None: PCollection[Batch], "position": PCollection[str]}``; the position is told once, at the
    end. An ended source sends the watermark to infinity; a window closes only if its closing was announced
    (`Batch.closes`), so a stream that is stopped leaves its open windows open, and a replay that is over has
    announced its last one.
    """

    feed: Feed
    position: str
    stop_file: str

    def expand(self, begin: Any) -> Any:
        """One element, the feed, read by one splittable DoFn."""
        return (
            begin
            | "Feed" >> beam.Create([self.position], reshuffle=False)
            | "Step"
            >> beam.ParDo(_StepFeed(self.feed, self.stop_file))
            .with_output_types(Batch, **{POSITION: str})
            .with_outputs(POSITION, main="batches")
        )


class _PositionTracker(RestrictionTracker):
    """A restriction that is a feed's position. It splits only at 0, which is what deferring does."""

    def __init__(self, position: str) -> None:
        self.position = position
        self.ended = position == _DONE

    def current_restriction(self) -> str:
        return self.position

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(completed=0, remaining=1)

    def try_claim(self, position: str) -> bool:
        if self.ended:
            return False
        self.position = position
        self.ended = position == _DONE
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[str, str] | None:
        if self.ended or fraction_of_remainder != 0:
            return None
        rest, self.position, self.ended = self.position, _DONE, True
        return _DONE, rest

    def check_done(self) -> None:
        if not self.ended:
            raise ValueError(f"the feed stands at {self.position!r} and was neither deferred nor ended")

    def is_bounded(self) -> bool:
        return False


class _Positions(RestrictionProvider):
    def initial_restriction(self, element: str) -> str:
        return _BEGIN + element

    def create_tracker(self, restriction: str) -> _PositionTracker:
        return _PositionTracker(restriction)

    def restriction_size(self, element: str, restriction: str) -> int:
        return 1

    def restriction_coder(self) -> StrUtf8Coder:
        return StrUtf8Coder()

    def truncate(self, element: str, restriction: str) -> None:
        return None


_POSITIONS, _WATERMARKS = _Positions(), ManualWatermarkEstimator.default_provider()


class _StepFeed(beam.DoFn):
    def __init__(self, feed: Feed, stop_file: str) -> None:
        self.feed = feed
        self.stop_file = Path(stop_file)
        self.rows_in, self.outside, self.bad = (counter(n) for n in ("rows_in", "outside", "bad_files"))

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(_POSITIONS),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(_WATERMARKS),
    ) -> Iterator[Any]:
        before = estimator.current_watermark() or MIN_TIMESTAMP
        if tracker.current_restriction().startswith(_BEGIN):
            yield TimestampedValue(_OPENING, before)
        position = tracker.current_restriction().removeprefix(_BEGIN).removeprefix(_NOWHERE)
        step = None if self.stop_file.exists() else self.feed.step(position)
        if step is None:
            if tracker.try_claim(_DONE):
                yield beam.pvalue.TaggedOutput(POSITION, position)
            return
        if not tracker.try_claim(step.position or _NOWHERE):
            return
        self.outside.inc(step.outside)
        self.bad.inc(step.skipped)
        for batch in step.batches:
            self.rows_in.inc(len(batch.rows))
            yield TimestampedValue(batch, before)
        if step.watermark_us is not None:
            now = Timestamp(micros=step.watermark_us)
            if now > before:
                estimator.set_watermark(now)
        wait_s = min(step.wait_s, _LONGEST_WAIT_S)
        tracker.defer_remainder(Duration.of(round(wait_s, 3)) if wait_s else None)


def ask_to_stop(stop_file: Path) -> None:
    """Asks the stream that watches ``stop_file`` to end cleanly; the file's time is of no matter."""
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.write_text(f"{time.time():.3f}\n")
