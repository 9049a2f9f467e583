"""Tests that a job over a file has equal outputs in process and on an engine.

Streams are compared on Prism and on Flink, backfills only on Flink.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.runners import java
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.model_changes import Request, read_changes, request_change, store_model
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from tests.cluster.fixtures import needs
from tests.comparisons import assert_same_frames, assert_same_state
from tests.fleets import HOUR, START, forecaster, rows_of, scales

SERIES, WINDOWS = 30, 150


@pytest.fixture
def has_flink() -> None:
    """Skip the test if Java or the job server is missing; `make java` fetches the job server, not Java."""
    needs(java.job_server)


def fleet() -> Windows:
    """Return a fleet with gaps."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(WINDOWS, SERIES)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.1] = np.nan
    return Windows(tuple(f"series {i}" for i in range(SERIES)), START, values)


FLEET = fleet()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write the rows of the fleet and invalid rows to a file, in random order, and return its path."""
    good = rows_of(FLEET)
    bad = good.head(20).with_columns(value=pl.lit(float("inf")))
    path = tmp_path / "rows.parquet"
    pl.concat([good, bad]).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    return path


@pytest.mark.prism
@pytest.mark.usefixtures("has_flink")
def test_replay_streams_have_equal_outputs_on_every_runner(rows: Path, tmp_path: Path) -> None:
    source = ReplaySource((str(rows),), Input(Columns(), batch_rows=1000), HOUR, windows_per_step=7)
    engines: tuple[Runner, ...] = ("in-process", "prism", "flink")
    ended = {}
    for engine in engines:
        job = StreamJob(
            forecaster(), source, tmp_path / engine, shards=3, windows_per_step=5, runner=engine, threads=1
        )
        outcome = run_stream(job)
        assert not outcome.stopped
        ended[engine] = outcome.counts, read_forecasts(job.output), state_table.read(job.states)
    counts, forecasts, table = ended["in-process"]
    assert len(forecasts) > 4000
    assert counts.rejected == len(read_quarantine(tmp_path / "in-process")) == 20
    for engine in engines[1:]:
        assert ended[engine][0] == counts
        assert_same_frames(forecasts, ended[engine][1], scales(FLEET))
        assert_same_state(ended[engine][2].state, table.state)


@pytest.mark.prism
@pytest.mark.usefixtures("has_flink")
def test_every_runner_changes_the_model_at_the_same_window(rows: Path, tmp_path: Path) -> None:
    source = ReplaySource((str(rows),), Input(Columns(), batch_rows=1000), HOUR, windows_per_step=7)
    engines: tuple[Runner, ...] = ("in-process", "prism", "flink")
    old, new = forecaster(), forecaster("gru", seed=3)
    issued = {}
    for engine in engines:
        output = tmp_path / engine
        output.mkdir()
        store_model(output, new)
        request_change(output, Request(new.version, "weather/2", 20))
        job = StreamJob(old, source, output, shards=3, runner=engine, threads=1, follows=True)
        assert run_stream(job).counts.missing == 0
        issued[engine] = read_forecasts(output)
        assert state_table.read(job.states).state.model_version == new.version
    for engine in engines[1:]:
        assert read_changes(tmp_path / engine / "state") == read_changes(tmp_path / engines[0] / "state")
        assert_same_frames(issued["in-process"], issued[engine], scales(FLEET))
    of_versions = issued["in-process"].group_by("model_version").agg(pl.col("issued_at").n_unique())
    assert sum(count for _, count in of_versions.rows()) == WINDOWS
    assert set(of_versions["model_version"]) == {old.version, new.version}


@pytest.mark.prism
@pytest.mark.usefixtures("has_flink")
def test_a_backfill_has_equal_outputs_on_flink_and_in_process(rows: Path, tmp_path: Path) -> None:
    engines: tuple[Runner, ...] = ("in-process", "flink")
    ended = {}
    for engine in engines:
        output = tmp_path / engine
        job = BackfillJob(
            forecaster(), (str(rows),), Input(Columns()), output, shards=3, runner=engine, threads=1
        )
        ended[engine] = run_backfill(job).counts, read_forecasts(output), state_table.read(job.states)
        assert not (output / ".backfill").exists()
    counts, forecasts, table = ended["in-process"]
    assert len(forecasts) > 4000
    assert ended["flink"][0] == counts
    assert_same_frames(forecasts, ended["flink"][1], scales(FLEET))
    assert_same_state(ended["flink"][2].state, table.state)
