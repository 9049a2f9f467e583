"""Test of `ForecastFleet` in a user's pipeline on Flink: a Python worker or a task manager is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from forecaster.time.windows import Windows
from pipelines import ForecastFleet, ReadLog, ReplaySource, WriteForecasts, read_forecasts
from pipelines.runners import flink, java
from pipelines.runners.base import FlinkSettings
from pipelines.runners.flink import JobServer, flink_options
from tests.cluster.faults import running
from tests.cluster.fixtures import needs
from tests.cluster.flink import FlinkCluster
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, START, forecaster, rows_of, scales
from tests.pipelines.beam.fleet_pipelines import backfill
from tests.pipelines.jobs.replays import DEFAULT_INPUT
from tests.stores import forecasts_written

WINDOWS_PER_S = 2
PATIENCE_S = 360.0  # a long time limit, because a busy machine starts Java and Python slowly
COUNTERS = {"rows_in", "rows_used", "windows_closed", "forecasts"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """Start a Flink cluster with two task managers and a pool of workers."""
    needs(java.job_server, java.setup_flink)
    with FlinkCluster.start(tmp_path_factory.mktemp("flink")) as started:
        yield started


def kill_python_worker(cluster: FlinkCluster) -> None:
    assert cluster.pool.process is not None
    cluster.pool.process.children()[0].kill()


def kill_task_manager(cluster: FlinkCluster) -> None:
    cluster.task_managers[0].kill()
    cluster.ensure_running()


def wait_until(is_true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < until_s
        time.sleep(0.1)


def checkpoints(cluster: FlinkCluster, job: str) -> tuple[int, int]:
    """Return how many checkpoints of a job are complete, and how often Flink has resumed the job."""
    counts = flink.ask(cluster.master, f"/jobs/{job}/checkpoints")["counts"]
    return counts["completed"], counts["restored"]


def has_ended(cluster: FlinkCluster) -> bool:
    """Return whether all jobs of the cluster have ended."""
    return {state for _, state in flink.jobs(cluster.master).values()} <= {"CANCELED", "FAILED", "FINISHED"}


@pytest.mark.parametrize("kill", [kill_python_worker, kill_task_manager])
def test_forecast_fleet_on_flink_recovers_from_a_killed_process(
    kill: Callable[[FlinkCluster], None], cluster: FlinkCluster, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).normal(size=(60, 12)).cumsum(0)
    values[np.random.default_rng(4).random(values.shape) < 0.1] = np.nan
    observed = Windows(tuple(f"s{i}" for i in range(12)), START, values)
    backfilled = backfill(rows_of(observed), tmp_path)
    forecaster().save(tmp_path / "model")
    source = ReplaySource(
        (str(tmp_path / "rows.parquet"),), DEFAULT_INPUT, HOUR, speed=3600.0 * WINDOWS_PER_S
    )
    output = tmp_path / "fleet"

    def issued() -> int:
        has_file = next((output / "forecasts").glob("[!.]*"), None) is not None
        return len(read_forecasts(output)) if has_file else 0

    with JobServer(cluster.master, tmp_path / "flink.log") as server:
        options = [
            *flink_options(server.endpoint, FlinkSettings(cluster.master, cluster.workers), 2),
            "--checkpointing_interval=1000",
            # After a task manager is killed, restarts of the job fail until a new one runs, so allow many.
            "--number_of_execution_retries=60",
            "--execution_retry_delay=2000",
        ]
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        fleet = pipeline | ReadLog(source) | ForecastFleet(tmp_path / "model", shards=3)
        fleet["forecasts"] | WriteForecasts(output)
        pipeline.run()
        try:
            wait_until(lambda: issued() > len(backfilled) / 4)
            (job,) = running(cluster)
            wait_until(lambda: checkpoints(cluster, job)[0] > 0)
            assert issued() < len(backfilled)
            kill(cluster)
            wait_until(lambda: issued() == len(backfilled))
            assert checkpoints(cluster, job)[1] > 0
            wait_until(lambda: {*cluster.counters(job)} >= COUNTERS)
        finally:
            for job in flink.jobs(cluster.master):  # the list includes jobs that Flink is restarting
                flink.cancel(cluster.master, job)
            # Wait until the job has ended, because the next test needs the task slots that the job occupies.
            wait_until(lambda: has_ended(cluster))
    assert_same_frames(read_forecasts(output), backfilled, scales(observed))
    assert forecasts_written(output) == len(backfilled)
