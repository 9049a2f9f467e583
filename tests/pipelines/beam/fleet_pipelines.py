"""Helpers to run `ForecastFleet` on a source of bundles, to read its outputs, and to run a backfill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import apache_beam as beam
import polars as pl
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from forecaster.model import Forecaster
from pipelines.beam.forecast_fleet import ForecastFleet
from pipelines.beam.gather_rows import Row
from pipelines.beam.metrics import NAMESPACE
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob
from pipelines.runners.prism import PrismServer, prism_options
from pipelines.settings.data_config import Columns
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.validated_rows import Input
from pipelines.storage import Location
from tests.fleets import HOUR_US, START, forecaster

IN_PROCESS = PipelineOptions(["--runner=FnApiRunner"])
PATIENCE_S = 60.0
NO_TIME = datetime(2013, 1, 1, tzinfo=UTC)  # an element without a valid time gets this event time


@dataclass(frozen=True)
class Bundle:
    """Elements that a source emits together, and the watermark after them.

    The source emits them once the fleet has written ``after`` forecasts.
    """

    elements: Sequence[Row | pl.DataFrame]
    watermark_us: int
    after: int = 0


@dataclass
class EmitBundles(beam.PTransform[Any, Any]):
    """An unbounded source that emits each bundle: its elements (rows or data frames), then its watermark."""

    bundles: Sequence[Bundle]
    folder: Path

    def expand(self, begin: Any) -> Any:
        """Emit the bundles with a splittable DoFn; each call of its ``process`` emits at most one bundle."""
        count = begin | beam.Create([len(self.bundles)], reshuffle=False)
        return count | beam.ParDo(_EmitBundle(tuple(self.bundles), self.folder)).with_output_types(Any)


class _Tracker(OffsetRestrictionTracker):
    def is_bounded(self) -> bool:
        return False


class _Positions(RestrictionProvider):
    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, element)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return _Tracker(restriction)

    def restriction_size(self, element: int, restriction: OffsetRange) -> int:
        return int(restriction.size())


_POSITIONS, _WATERMARKS = _Positions(), ManualWatermarkEstimator.default_provider()


class _EmitBundle(beam.DoFn):
    def __init__(self, bundles: Sequence[Bundle], folder: Path) -> None:
        self.bundles, self.folder = bundles, folder

    def setup(self) -> None:
        self.until_s = time.monotonic() + PATIENCE_S

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(_POSITIONS),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(_WATERMARKS),
    ) -> Iterator[Any]:
        position = tracker.current_restriction().start
        bundle = self.bundles[position]
        if len(read_output(self.folder, "forecasts")) < bundle.after and time.monotonic() < self.until_s:
            tracker.defer_remainder(Duration.of(0.05))
            return
        if not tracker.try_claim(position):
            return
        for made in bundle.elements:
            yield TimestampedValue(made, Timestamp(micros=_at_us(made)))
        estimator.set_watermark(Timestamp(micros=bundle.watermark_us))
        tracker.defer_remainder(Duration.of(0.01))


def _at_us(element: Row | pl.DataFrame) -> int:
    at = element["timestamp"].min() if isinstance(element, pl.DataFrame) else element["timestamp"]
    return int((at if isinstance(at, datetime) else NO_TIME).timestamp() * 1_000_000)


def write_frame(frame: pl.DataFrame, folder: Path) -> None:
    hidden = folder / f".{uuid4().hex}"
    frame.write_parquet(hidden)
    hidden.rename(folder / f"{uuid4().hex}.parquet")


def read_output(folder: Path, kind: str) -> pl.DataFrame:
    files = [path for path in (folder / kind).glob("*.parquet") if not path.name.startswith(".")]
    return pl.concat([pl.read_parquet(file) for file in files], how="diagonal") if files else pl.DataFrame()


def run(
    options: PipelineOptions, rows: beam.PTransform[Any, Any], fleet: ForecastFleet, folder: Path
) -> dict[str, int]:
    """Run a pipeline with `ForecastFleet`, write its outputs below ``folder``, and return its counters."""
    pipeline = beam.Pipeline(options=options)
    for kind, frames in (pipeline | "Rows" >> rows | fleet).items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        frames | kind >> beam.Map(write_frame, folder / kind)
    result = pipeline.run()
    result.wait_until_finish()
    return counters(result)


def counters(result: PipelineResult) -> dict[str, int]:
    """Return the counters of Statecast in the result of a pipeline."""
    found: dict[str, int] = {}
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == NAMESPACE:
            name = counter.key.metric.name
            found[name] = found.get(name, 0) + counter.committed
    return found


def run_on_prism(rows: beam.PTransform[Any, Any], fleet: ForecastFleet, folder: Path) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    with PrismServer(folder / "prism.log") as prism:
        return run(PipelineOptions(prism_options(prism.endpoint)), rows, fleet, folder)


def run_unbounded(bundles: Sequence[Bundle], fleet: ForecastFleet, folder: Path) -> dict[str, int]:
    return run_on_prism(EmitBundles(bundles, folder), fleet, folder)


def backfill(
    rows: pl.DataFrame, folder: Path, model: Forecaster | None = None, output: Location | None = None
) -> pl.DataFrame:
    """Return the forecasts of a backfill of rows, and leave its state table in the output folder."""
    rows.write_parquet(folder / "rows.parquet")
    files = (str(folder / "rows.parquet"),)
    job = BackfillJob(model or forecaster(), files, Input(Columns()), output or folder / "out", shards=2)
    run_backfill(job)
    return read_forecasts(job.output)


def end_us(window: int) -> int:
    """Return the end of a window in microseconds since 1970; windows are numbered from START on."""
    return (START + window + 1) * HOUR_US


def between(rows: pl.DataFrame, first: int, stop: int) -> pl.DataFrame:
    """Return the rows of windows ``[first, stop)``, counted from START, in random order."""
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    return rows.filter((window >= first) & (window < stop)).sample(fraction=1, shuffle=True, seed=first)


def in_halves(elements: list[dict[str, Any]], window: int) -> tuple[Bundle, Bundle]:
    half = len(elements) // 2
    return Bundle(elements[:half], end_us(window - 1)), Bundle(elements[half:], end_us(window))


def time_of(hour: float) -> datetime:
    return datetime.fromtimestamp((START + hour) * 3600, UTC)
