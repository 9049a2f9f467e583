"""Fixtures with jobs over three series; each job has an empty output folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import read_forecasts
from tests.fleets import START, forecaster, rows_of
from tests.pipelines.jobs.replays import DEFAULT_INPUT, replay_job


@pytest.fixture
def job(tmp_path: Path) -> BackfillJob:
    """Return a backfill over the rows of ten windows of three series, which are split into two files."""
    values = pl.Series(range(30)).cast(pl.Float64).to_numpy().reshape(10, 3).copy()
    rows = rows_of(Windows(("a", "b", "c"), START, values))
    files = tmp_path / "1.parquet", tmp_path / "2.csv"
    rows.head(15).write_parquet(files[0])
    rows.tail(15).write_csv(files[1])
    return BackfillJob(forecaster(), tuple(map(str, files)), DEFAULT_INPUT, tmp_path / "out", shards=2)


@pytest.fixture(params=["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def runner(request: pytest.FixtureRequest) -> Runner:
    name: Runner = request.param
    return name


@pytest.fixture
def replayed(tmp_path: Path) -> StreamJob:
    """Return a stream that replays twenty windows of three series in process, six windows in each step."""
    values = np.random.default_rng(0).normal(size=(20, 3))
    rows_of(Windows(("a", "b", "c"), START, values)).write_parquet(tmp_path / "rows.parquet")
    return replay_job(tmp_path / "out", tmp_path / "rows.parquet")


@pytest.fixture
def uninterrupted(replayed: StreamJob, tmp_path: Path) -> pl.DataFrame:
    """Return the forecasts of a stream that ran without an interruption."""
    job = replay_job(tmp_path / "uninterrupted", tmp_path / "rows.parquet")
    run_stream(job)
    return read_forecasts(job.output)
