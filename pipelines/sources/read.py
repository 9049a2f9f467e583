"""A source as a Beam source of `Batch`es: one splittable DoFn reads them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration

from forecaster.shard import Batch
from pipelines.failure import told_of
from pipelines.sources.base import Source
from pipelines.sources.reader import LONGEST_WAIT_S, Read, Reader

_DONE = "done"
_SHORT_S = 0.05


@dataclass
class ReadSource(beam.PTransform[Any, Any]):
    """The batches of a source, until it ends or is asked to stop: ``PBegin -> PCollection[Batch]``.

    The watermark that closes windows travels in the batches; the engine's own stays at the beginning of time
    and goes to its end with the source, and nothing depends on it.

    Attributes:
        source: the partition.
        offset: where to begin.
        output: output folder of the job, where what goes wrong is left.
        applied: how far every shard has come in the partition; see `pipelines.sources.reader.Reader`.
        stop_file: its appearance ends the reading.
        snapshot_every_s: seconds between two snapshots.
    """

    source: Source
    offset: int
    output: Path
    applied: Callable[[], int]
    stop_file: Path
    snapshot_every_s: float

    def expand(self, begin: Any) -> Any:
        """One element, the offset, read by one splittable DoFn."""
        return (
            begin
            | "Partition" >> beam.Create([self.offset], reshuffle=False)
            | "Step" >> beam.ParDo(_StepSource(self)).with_output_types(Batch)
        )


class _OffsetTracker(RestrictionTracker):
    """A restriction that is the offset to go on from. It splits only at 0, which is what deferring does."""

    def __init__(self, offset: str) -> None:
        self.offset = offset

    def current_restriction(self) -> str:
        return self.offset

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(completed=0, remaining=1)

    def try_claim(self, offset: str) -> bool:
        if self.offset == _DONE:
            return False
        self.offset = offset
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[str, str] | None:
        if self.offset == _DONE or fraction_of_remainder != 0:
            return None
        rest, self.offset = self.offset, _DONE
        return _DONE, rest

    def check_done(self) -> None:
        if self.offset != _DONE:
            raise ValueError(f"the source stands at {self.offset} and was neither deferred nor ended")

    def is_bounded(self) -> bool:
        return False


class _Offsets(RestrictionProvider):
    def initial_restriction(self, element: int) -> str:
        return str(element)

    def create_tracker(self, restriction: str) -> _OffsetTracker:
        return _OffsetTracker(restriction)

    def restriction_size(self, element: int, restriction: str) -> int:
        return 1

    def restriction_coder(self) -> StrUtf8Coder:
        return StrUtf8Coder()

    def truncate(self, element: int, restriction: str) -> None:
        return None


_OFFSETS, _WATERMARKS = _Offsets(), ManualWatermarkEstimator.default_provider()


class _StepSource(beam.DoFn):
    reader: Reader

    def __init__(self, read: ReadSource) -> None:
        self.read = read

    def setup(self) -> None:
        read = self.read
        self.reader = Reader(read.source, read.stop_file, read.snapshot_every_s, read.applied)

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(_OFFSETS),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(_WATERMARKS),
    ) -> Iterator[Batch]:
        offset = tracker.current_restriction()
        if offset == _DONE:
            return
        with told_of(self.read.output):
            read = self._next(int(offset))
        if not tracker.try_claim(_DONE if read.ended else str(read.offset)):
            return
        yield from read.batches
        if not read.ended:
            tracker.defer_remainder(Duration.of(round(read.wait_s, 3)) if read.wait_s else None)

    def _next(self, offset: int) -> Read:
        """What is next. A short wait is waited for here: to come back costs an engine more.

        A long one is not: for as long as a bundle runs, Prism asks it ten times a second how far it is.
        """
        until_s = time.monotonic() + LONGEST_WAIT_S
        while True:
            read = self.reader.next(offset)
            if read.batches or read.ended or read.wait_s > _SHORT_S or time.monotonic() > until_s:
                return read
            time.sleep(max(read.wait_s, 0.001))
