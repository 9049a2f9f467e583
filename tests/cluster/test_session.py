"""Tests that jobs on a Flink cluster have the outputs of jobs in process, also if workers are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.runners import java
from pipelines.runners.base import FlinkSettings
from pipelines.sinks import numbers
from pipelines.sinks.files import FORECASTS, read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from pipelines.storage import BACKFILL, Location, Remote
from schemas.errors import EngineLost
from tests.cluster.broker import Broker
from tests.cluster.faults import running
from tests.cluster.fixtures import needs
from tests.cluster.flink import FlinkCluster
from tests.cluster.process import free_port
from tests.cluster.streams import (
    PATIENCE_S,
    WINDOWS,
    closed_windows,
    even_partitions,
    expected_forecasts,
    produce,
    rows_in_time_order,
    source_of,
)
from tests.comparisons import assert_same_frames, assert_same_state
from tests.fleets import forecaster, scales
from tests.forked import ForkedProcess
from tests.stores import forecasts_written, keys, s3_server

ROWS_AT_ONCE = 100  # number of rows that a test sends to the topic at a time before it kills workers
COMPACT = "%Y%m%dT%H%M%S%z"  # format of times in the names of forecast files

_COMMAND = """
import sys
from pathlib import Path
from pipelines.jobs.forecast import run_stream
from schemas.errors import EngineLost
from tests.cluster.broker import Broker
from tests.cluster.test_session import stream_job
master, workers, broker, topic, output = sys.argv[1:]
run_stream(stream_job(master, workers, Broker(Path(broker)), topic, Path(output)))
"""


def stream_job(master: str, workers: str, broker: Broker, topic: str, output: Path) -> StreamJob:
    """Return a stream of a topic: it runs on Flink, resumes from its state table, and ends at a failure."""
    return StreamJob(
        forecaster(),
        source_of(broker, topic, output),
        output,
        3,
        snapshot_every_s=0.5,
        runner="flink",
        flink=FlinkSettings(master, workers),
        resume=True,
        restarts=0,
    )


@pytest.fixture(scope="module")
def store() -> Iterator[Remote]:
    """Yield a bucket of an S3 server."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def cluster(store: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """Start a Flink cluster with two task managers and a pool of workers.

    The fixture ``store`` must be ready before: the workers read its address from the environment.
    """
    assert "AWS_ENDPOINT_URL" in os.environ
    needs(java.job_server, java.setup_flink)
    with FlinkCluster.start(tmp_path_factory.mktemp("flink")) as started:
        yield started


def assert_survives_kills(
    cluster: FlinkCluster,
    broker: Broker,
    topic: str,
    output: Location,
    fleet: Windows,
    keyed: bool,
    deaths: int,
) -> None:
    """Assert that a stream loses no row when ``deaths`` of its two workers are killed at one moment.

    The workers are killed when each shard has written forecasts after its last snapshot.

    The rows that arrive after the kill let the restarted job close other blocks of windows than before the
    kill. If the other worker writes a snapshot in between, batches are cut at the offsets of this snapshot,
    and the blocks are the same.
    """
    rows, home = rows_in_time_order(fleet), even_partitions(fleet)
    source = replace(source_of(broker, topic, Path()), folder=output / "state")
    if keyed:
        source = replace(source, keyed_shards=3, read_series_shards=state_table.read_series_shards)
    job = StreamJob(
        forecaster(),
        source,
        output,
        3,
        # The test kills the workers once each shard has written forecasts of windows that its last snapshot
        # does not contain. The test lists the store to find such windows, which takes time if the store is
        # slow. With a shorter interval, a new snapshot could contain these windows before the kill.
        snapshot_every_s=5.0,
        runner="flink",
        flink=FlinkSettings(cluster.master, cluster.workers),
        restarts=3,
    )
    restarts: list[str] = []
    killed: list[int] = []
    left = list(rows.iter_slices(ROWS_AT_ONCE))
    until_s = time.monotonic() + 3 * PATIENCE_S  # a long time limit, because Java and Python start twice
    produce(broker, topic, left.pop(0), home)

    def kill_workers(numbers_of_job: object) -> None:
        if not killed:
            unsaved = windows_after_snapshot(output)
            if unsaved and min(unsaved) > 0:
                assert cluster.pool.process is not None
                workers = cluster.pool.process.children()
                assert len(workers) == 2
                for worker in workers[:deaths]:
                    killed.append(worker.pid)
                    worker.kill()
                produce(broker, topic, pl.concat(left), home)
            elif unsaved and max(unsaved) == 0 and len(left) > 1:
                produce(broker, topic, left.pop(0), home)
        if closed_windows(output) >= WINDOWS - 1 or time.monotonic() > until_s:
            request_stop(job.stop_file)

    counts = run_stream(job, kill_workers, restarts.append).counts
    assert killed
    assert len(restarts) == 1
    assert counts.rows_in == len(rows)
    assert counts.missing == counts.late == counts.rejected == 0


def windows_after_snapshot(output: Location) -> list[int]:
    """Return for each shard how many windows with written forecasts were closed after its last snapshot.

    The list is empty before all shards have a snapshot with closed windows.
    """
    made = [path.name.split("-") for path in (output / FORECASTS).glob("2*")]
    ends = [(name[-3], int(datetime.strptime(name[1], COMPACT).timestamp()) // 3600) for name in made]
    found = []
    for shard in state_table.read(output / "state").shards:
        if shard.closed_through is None:
            return []
        written = max((end for number, end in ends if int(number) == shard.number), default=0)
        found.append(max(written - 1 - shard.closed_through, 0))
    return found


def test_a_killed_worker_loses_no_row_of_keyed_topics(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    assert_survives_kills(cluster, broker, topics[0], tmp_path / "out", fleet, keyed=True, deaths=1)
    partitions = [sorted(shard.offsets) for shard in state_table.read(tmp_path / "out" / "state").shards]
    assert partitions == [[f"{topics[0]}-{n}" for n in range(4) if n % 3 == number] for number in range(3)]
    made = read_forecasts(tmp_path / "out")
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), made, scales(fleet))
    assert forecasts_written(tmp_path / "out") == len(made)


def test_a_resumed_stream_replaces_the_flink_job_of_a_killed_process(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows, output = rows_in_time_order(fleet), tmp_path / "out"
    produce(broker, topics[0], rows, even_partitions(fleet))
    job = stream_job(cluster.master, cluster.workers, broker, topics[0], output)
    where = cluster.master, cluster.workers, str(broker.folder), topics[0], str(output)
    process = ForkedProcess(["-c", _COMMAND, *where])
    try:
        until_s = time.monotonic() + PATIENCE_S
        while closed_windows(output) < 8:
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(running(cluster)) == 1, "the cluster has not noticed the kill"

    def stop_when_closed(numbers_of_job: object) -> None:
        if closed_windows(output) >= WINDOWS - 1:
            request_stop(job.stop_file)

    counts = run_stream(job, stop_when_closed).counts
    assert counts.rows_in == len(rows)
    assert not running(cluster)
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), read_forecasts(output), scales(fleet))


def test_flink_shows_the_counters_of_a_running_stream(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    produce(broker, topics[0], rows_in_time_order(fleet), even_partitions(fleet))
    job = stream_job(cluster.master, cluster.workers, broker, topics[0], tmp_path / "out")
    until_s = time.monotonic() + 3 * PATIENCE_S  # a busy machine starts Java and Python slowly, so wait long
    shown: dict[str, int] = {}
    counted: dict[str, int] = {}

    def read_counters(numbers_of_job: object) -> None:
        nonlocal shown, counted
        flink_jobs = running(cluster)  # this list of jobs is empty once the stream has ended
        if flink_jobs and closed_windows(job.output) >= WINDOWS - 1:
            shown, shards = cluster.counters(flink_jobs[0]), numbers.read_shards(job.output)
            counted = {
                "rows_in": sum(shard.counts.rows_in for shard in shards),
                "rows_used": sum(shard.counts.used for shard in shards),
                "windows_closed": sum(shard.counts.windows for shard in shards),
                "forecasts": sum(shard.counts.series_steps for shard in shards),
            }
        if (shown and shown == counted) or time.monotonic() > until_s:
            request_stop(job.stop_file)

    run_stream(job, read_counters)
    assert shown == counted
    assert shown["rows_in"] == 20 * WINDOWS


def test_a_stream_into_s3_survives_kills_of_all_workers(
    cluster: FlinkCluster,
    store: Remote,
    broker: Broker,
    topics: tuple[str, str],
    fleet: Windows,
    tmp_path: Path,
) -> None:
    output = store / "out"
    assert_survives_kills(cluster, broker, topics[0], output, fleet, keyed=False, deaths=2)
    made = read_forecasts(output)
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), made, scales(fleet))
    assert forecasts_written(output) == len(made)


def test_a_flink_backfill_into_a_store_equals_a_local_one(
    cluster: FlinkCluster, store: Remote, fleet: Windows, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.parquet"
    rows_in_time_order(fleet).write_parquet(rows)
    here = BackfillJob(forecaster(), (str(rows),), Input(Columns()), tmp_path / "out", 3)
    there = replace(
        here,
        output=store / "backfill",
        runner="flink",
        flink=FlinkSettings(cluster.master, cluster.workers),
    )
    assert run_backfill(there).counts == run_backfill(here).counts
    made = read_forecasts(there.output)
    assert_same_frames(read_forecasts(here.output), made, scales(fleet))
    assert forecasts_written(there.output) == len(made)
    assert_same_state(state_table.read(there.states).state, state_table.read(here.states).state)
    assert keys(store / "backfill" / BACKFILL) == []


def test_the_error_names_an_unreachable_pool_of_workers(
    cluster: FlinkCluster, fleet: Windows, tmp_path: Path
) -> None:
    rows_in_time_order(fleet).write_parquet(tmp_path / "rows.parquet")
    nowhere = f"127.0.0.1:{free_port()}"
    job = BackfillJob(
        forecaster(),
        (str(tmp_path / "rows.parquet"),),
        Input(Columns()),
        tmp_path / "out",
        runner="flink",
        flink=FlinkSettings(cluster.master, nowhere),
    )
    with pytest.raises(EngineLost, match=f"cannot reach a pool of workers at {nowhere}"):
        run_backfill(job)
