"""The streaming job on Prism: rows in as they come, forecasts out as windows close."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from forecaster.model import Forecaster
from pipelines import memory, state_table
from pipelines.coders import Sharded
from pipelines.gate import QUARANTINED, Gate
from pipelines.jobs.backfill import PROGRESS_S, Progress
from pipelines.jobs.outcome import Closings, Counts, Outcome, told
from pipelines.process import cores
from pipelines.runners.prism import PrismServer, prism_options
from pipelines.sinks.files import (
    Format,
    WriteForecasts,
    WritePosition,
    WriteQuarantine,
    WriteStateTable,
    prepare_folder,
)
from pipelines.sinks.metrics import tallied
from pipelines.sources.feeds import Feed
from pipelines.sources.read import POSITION, ReadFeed, ask_to_stop
from pipelines.transforms import STATES, CloseAtWatermark, StepSettings
from schemas.errors import EngineError


@dataclass(frozen=True)
class StreamJob:
    """A stream.

    Attributes:
        forecaster: weights and settings.
        feed: where rows come from.
        output: output folder; forecasts are added to those in it.
        shards: groups of series stepped together.
        windows_per_step: most windows in one network call, when there is a backlog.
        state_table: state table to start from; None starts cold.
        resume: go on from the position in that table, too (else the feed starts at its beginning).
        format: of the forecast files.
        parallelism: shards stepped side by side.
    """

    forecaster: Forecaster
    feed: Feed
    output: Path
    shards: int = 8
    windows_per_step: int = 32
    state_table: Path | None = None
    resume: bool = False
    format: Format = "parquet"
    parallelism: int = field(default_factory=cores)

    @property
    def states(self) -> Path:
        """The state table that the job leaves."""
        return self.output / "state"

    @property
    def stop_file(self) -> Path:
        """The file whose appearance ends the job cleanly."""
        return self.output / ".stop"


def run_stream(job: StreamJob, on_progress: Progress = lambda lines: None) -> Outcome:
    """Runs a stream until its feed ends, SIGINT or SIGTERM comes, or its stop file appears.

    However it ends of these, what was announced is forecast, open windows go into the state table, and the
    table is put in place. A second signal ends it at once, without a table.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; one line.
    """
    began = time.monotonic()
    prepare_folder(job.output)
    position = ""
    if job.state_table is not None:
        table = state_table.read(job.state_table)
        position = table.position if job.resume else ""
    shutil.rmtree(state_table.beside(job.states), ignore_errors=True)
    job.stop_file.unlink(missing_ok=True)
    closings = Closings(job.output)
    latency_ms: list[float] = []

    def report() -> None:
        lines = closings.new()
        if job.feed.is_paced:
            latency_ms.extend(ms for line in lines for ms in line["latency_ms"])
        on_progress(lines)

    with (
        PrismServer(job.output / "prism.log") as prism,
        _ending_cleanly(job.stop_file),
        tallied() as tally,
        memory.loaded_left_alone(),
    ):
        options = PipelineOptions(prism_options(prism.endpoint))
        pipeline = beam.Pipeline(options=options)
        build(pipeline, job, position)
        try:
            result = pipeline.run()
            while not PipelineState.is_terminal(ended := result.state):
                time.sleep(PROGRESS_S)
                report()
            result.wait_until_finish()
        except Exception as error:
            raise told(error) from error
        counts = Counts.of(tally)
    report()
    if ended != PipelineState.DONE:
        raise EngineError(f"the stream ended as {ended}: see {job.output / 'prism.log'}")
    stopped = job.stop_file.exists()
    job.stop_file.unlink(missing_ok=True)
    state_table.put_in_place(job.states)
    return Outcome(counts, time.monotonic() - began, job.output, stopped, latency_ms)


def build(pipeline: beam.Pipeline, job: StreamJob, position: str = "") -> None:
    """The pipeline of a stream, on any streaming runner."""
    settings = StepSettings(job.forecaster.to_bytes(), job.shards, job.windows_per_step, job.state_table)
    feed = pipeline | "Feed" >> ReadFeed(job.feed, position, str(job.stop_file))
    feed[POSITION] | "Position" >> WritePosition(job.states)
    rows = feed.batches | "Gate" >> Gate(job.shards)
    rows[QUARANTINED] | "Quarantine" >> WriteQuarantine(job.output)
    # Prism takes all ready keys of a stage in one bundle, one after the other. Stages go side by side.
    lanes = max(min(job.parallelism, job.shards), 1)
    for lane in range(lanes):
        mine = rows.good | f"Lane{lane}" >> beam.Filter(_in_lane, lane, lanes).with_output_types(Sharded)
        closed = mine | f"Close{lane}" >> CloseAtWatermark(settings)
        closed.issued | f"Forecasts{lane}" >> WriteForecasts(job.output, job.format)
        closed[STATES] | f"States{lane}" >> WriteStateTable(job.states)


def _in_lane(sharded: Sharded, lane: int, lanes: int) -> bool:
    return sharded[0] % lanes == lane


@contextmanager
def _ending_cleanly(stop_file: Path) -> Iterator[None]:
    """SIGINT and SIGTERM ask the source to end; a second one gets its usual meaning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def stop(number: int, frame: Any) -> None:
        ask_to_stop(stop_file)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
