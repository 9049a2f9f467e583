"""Jobs over a small fleet that are stopped, killed, or go on over a watched folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pipelines.jobs.job import StreamJob
from pipelines.settings.config import Columns
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Step
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.replay import ReplaySource
from pipelines.storage import Location
from schemas.errors import DataError
from tests.fleets import HOUR, forecaster

ALL = Input(Columns())


@dataclass(frozen=True)
class Stopping:
    """A source that has its job asked to stop once it has read so far."""

    source: ReplaySource
    stop_file: Location
    at: int

    @property
    def partition(self) -> str:
        return self.source.partition

    @property
    def is_paced(self) -> bool:
        return self.source.is_paced

    def step(self, offset: int) -> Step | None:
        step = self.source.step(offset)
        if step is not None and step.offset >= self.at:
            ask_to_stop(self.stop_file)
        return step


@dataclass(frozen=True)
class Breaking(Stopping):
    """A source that fails instead, which leaves its job as a kill would: at its last snapshots."""

    def step(self, offset: int) -> Step | None:
        if offset >= self.at:
            raise DataError("the cable was pulled")
        return self.source.step(offset)


def into(output: Path, path: Path) -> StreamJob:
    source = ReplaySource((str(path),), ALL, HOUR, windows_per_step=6, manifest_folder=output / "state")
    return StreamJob(forecaster(), source, output, shards=2, runner="in-process")


def replay_of(job: StreamJob) -> ReplaySource:
    assert isinstance(job.source, ReplaySource)
    return job.source


def stopping(job: StreamJob, at: int) -> StreamJob:
    return replace(job, source=Stopping(replay_of(job), job.stop_file, at))


def breaking(job: StreamJob, at: int, every_s: float = 1e-9) -> StreamJob:
    """With a snapshot asked for after each step."""
    return replace(
        job, source=Breaking(replay_of(job), job.stop_file, at), snapshot_every_s=every_s, resume=True
    )


def watching(job: StreamJob, folder: Path, skip_bad_files: bool = False) -> StreamJob:
    how = replace(ALL, skip_bad_files=skip_bad_files)
    return replace(job, source=FolderSource(folder, how, job.states, poll_s=0.05))


def stop_when(job: StreamJob, condition: Callable[[JobNumbers], bool]) -> Callable[[JobNumbers], None]:
    deadline_s = time.monotonic() + 60

    def look(numbers: JobNumbers) -> None:
        if condition(numbers) or time.monotonic() > deadline_s:
            ask_to_stop(job.stop_file)

    return look


def put(folder: Path, name: str, rows: pl.DataFrame | str) -> None:
    folder.mkdir(exist_ok=True)
    if isinstance(rows, str):
        (folder / name).write_text(rows)
    else:
        rows.write_parquet(folder / name)
    os.utime(folder / name, (0, 0))  # settled
