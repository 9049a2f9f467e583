"""The batch job: files in; forecasts as of every window and the state table out."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from forecaster.model import Forecaster
from pipelines import memory, state_table
from pipelines.gate import QUARANTINED, Gate
from pipelines.jobs.outcome import Closings, Counts, Outcome, told
from pipelines.process import cores
from pipelines.sinks.files import (
    CLOSINGS,
    Format,
    WriteForecasts,
    WriteQuarantine,
    WriteStateTable,
    check_folder,
    prepare_folder,
    read_quarantine,
)
from pipelines.sinks.metrics import tallied
from pipelines.sources.feeds import Input
from pipelines.sources.read import ReadFiles
from pipelines.transforms import STATES, CloseAll, StepSettings
from schemas.errors import DataError, OutputError

Progress = Callable[[list[dict[str, Any]]], None]
"""Called now and then with the new lines of the closings log (see `pipelines.sinks.files.WriteForecasts`)."""

PROGRESS_S = 0.5

_HIDDEN = ".backfill"
_END_LIMIT_S = 3.0


@dataclass(frozen=True)
class BackfillJob:
    """A backfill.

    Attributes:
        forecaster: weights and settings.
        paths: files to read.
        input: how to read them.
        output: output folder; forecasts and states of an earlier job in it are replaced.
        shards: groups of series stepped together.
        windows_per_step: most windows in one network call.
        state_table: state table to start from; None starts cold.
        format: of the forecast files.
        parallelism: shards stepped side by side.
    """

    forecaster: Forecaster
    paths: tuple[str, ...]
    input: Input
    output: Path
    shards: int = 8
    windows_per_step: int = 32
    state_table: Path | None = None
    format: Format = "parquet"
    parallelism: int = field(default_factory=cores)

    @property
    def states(self) -> Path:
        """The state table that the job leaves."""
        return self.output / "state"


def run_backfill(job: BackfillJob, on_progress: Progress = lambda lines: None) -> Outcome:
    """Runs a backfill to its end, in this process.

    It works in a hidden folder beside the output and puts it in place at the end: where it fails or is
    interrupted, what an earlier job left is as it was.

    Raises:
        StatecastError: a file, the state table or the output folder is at fault; one line.
    """
    began = time.monotonic()
    if job.state_table is not None:
        state_table.read(job.state_table)
    is_new = not job.output.exists()
    check_folder(job.output)
    hidden = replace(job, output=job.output / _HIDDEN)
    shutil.rmtree(hidden.output, ignore_errors=True)
    prepare_folder(hidden.output)
    try:
        counts = _run(hidden, on_progress)
        if not counts.used + counts.pending:
            raise DataError(_nothing_used(counts, hidden.output))
        _put_in_place(hidden, job.output)
    finally:
        shutil.rmtree(hidden.output, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not empty: it ended well
                job.output.rmdir()
    return Outcome(counts, time.monotonic() - began, job.output)


def _run(job: BackfillJob, on_progress: Progress) -> Counts:
    """Runs the pipeline in a thread of its own: Beam would wrap a Ctrl-C, and Polars panic in the midst."""
    closings = Closings(job.output)
    options = PipelineOptions(["--runner=FnApiRunner", "--direct_running_mode=in_memory"])
    pipeline = beam.Pipeline(options=options)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run().wait_until_finish()
        except BaseException as error:
            failed.append(error)

    with tallied() as tally, memory.loaded_left_alone():
        build(pipeline, job)
        runner = threading.Thread(target=run, name="backfill", daemon=True)
        runner.start()
        try:
            while runner.is_alive():
                runner.join(PROGRESS_S)
                on_progress(closings.new())
        except BaseException:
            shutil.rmtree(job.output, ignore_errors=True)  # whose next file ends the pipeline
            runner.join(_END_LIMIT_S)
            raise
        if failed:
            raise told(failed[0]) from failed[0]
        return Counts.of(tally)


def _nothing_used(counts: Counts, folder: Path) -> str:
    if not counts.rows_in + counts.outside:
        return "the files hold no rows: there is nothing to forecast from"
    quarantined = read_quarantine(folder)
    first = f"; the first: {quarantined['reason'][0]}" if len(quarantined) else ""
    return (
        f"no row can be used: of {counts.rows_in + counts.outside:,} rows {counts.outside:,} lie outside the "
        f"asked time, {counts.too_late:,} are too late for the state table, "
        f"{counts.quarantined:,} are no observations{first}"
    )


def _put_in_place(job: BackfillJob, output: Path) -> None:
    """Moves what ``job`` wrote to ``output``, the state table last: who finds it finds the forecasts, too."""
    state_table.put_in_place(job.states)
    try:
        for part in ("forecasts", "quarantine", CLOSINGS, "state"):
            old, new = output / part, job.output / part
            if old.exists():
                os.replace(old, job.output / f"old-{part}")
            if new.exists():
                os.replace(new, old)
    except OSError as error:
        raise OutputError(f"{output}: cannot be put in place ({error.strerror})") from error


def build(pipeline: beam.Pipeline, job: BackfillJob) -> None:
    """The pipeline of a backfill, on any runner."""
    settings = StepSettings(
        job.forecaster.to_bytes(), job.shards, job.windows_per_step, job.state_table, job.parallelism
    )
    rows = pipeline | "Rows" >> ReadFiles(job.paths, job.input) | "Gate" >> Gate(job.shards)
    rows[QUARANTINED] | "Quarantine" >> WriteQuarantine(job.output)
    closed = rows.good | "Close" >> CloseAll(settings)
    closed.issued | "Forecasts" >> WriteForecasts(job.output, job.format)
    closed[STATES] | "States" >> WriteStateTable(job.states)
