"""Streams of a topic on a session cluster, with workers of their own: as in process, killed or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.runners import java
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.files import read_forecasts
from pipelines.sources.reader import ask_to_stop
from pipelines.storage import Location, Remote
from tests.cluster.broker import Broker
from tests.cluster.fixtures import needs
from tests.cluster.flink import FlinkCluster
from tests.cluster.streams import WINDOWS, closed, evenly, expected, in_time, produce, source_of
from tests.fleets import START, forecaster, scales
from tests.same import assert_same_frames
from tests.stores import forecasts_written, s3_server


@pytest.fixture(scope="module")
def store() -> Iterator[Remote]:
    """A bucket of an S3 server."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def cluster(store: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """Two task managers and a pool, whose workers know the store: they have this process's environment."""
    assert "AWS_ENDPOINT_URL" in os.environ
    needs(java.job_server, java.setup_flink)
    with FlinkCluster.start(tmp_path_factory.mktemp("flink")) as started:
        yield started


@pytest.fixture(scope="module")
def fleet() -> Windows:
    chance = np.random.default_rng(5)
    values = chance.normal(size=(WINDOWS, 20)).cumsum(0)
    return Windows(tuple(f"series {i}" for i in range(20)), START, values)


def survived(
    cluster: FlinkCluster, broker: Broker, topic: str, output: Location, fleet: Windows, keyed: bool
) -> None:
    """Runs a stream on the cluster until it has closed its windows; a worker is killed on the way."""
    rows, home = in_time(fleet), evenly(fleet)
    produce(broker, topic, rows[:300], home)
    source = replace(source_of(broker, topic, Path()), folder=output / "state")
    if keyed:
        source = replace(source, keyed_shards=3, homes=state_table.homes)
    job = StreamJob(
        forecaster(),
        source,
        output,
        3,
        snapshot_every_s=0.5,
        runner="flink",
        flink=FlinkSettings(cluster.master, cluster.workers),
        restarts=3,
    )
    restarts: list[str] = []
    killed: list[int] = []

    def look(told: object) -> None:
        if closed(output) >= 8 and not killed:
            assert cluster.pool.process is not None
            workers = cluster.pool.process.children()
            assert len(workers) == 2
            killed.append(workers[0].pid)
            workers[0].kill()
            produce(broker, topic, rows[300:], home)
        if closed(output) >= WINDOWS - 1:
            ask_to_stop(job.stop_file)

    counts = run_stream(job, look, restarts.append).counts
    assert killed
    assert len(restarts) == 1
    assert counts.rows_in == len(rows)
    assert counts.missing == counts.late == counts.rejected == 0


def test_a_keyed_topic_is_forecast_by_several_workers_as_in_process_and_one_of_them_is_killed(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    survived(cluster, broker, topics[0], tmp_path / "out", fleet, keyed=True)
    followed = [sorted(shard.offsets) for shard in state_table.read(tmp_path / "out" / "state").shards]
    assert followed == [[f"{topics[0]}-{n}" for n in range(4) if n % 3 == number] for number in range(3)]
    assert_same_frames(expected(fleet, tmp_path / "a"), read_forecasts(tmp_path / "out"), scales(fleet))


def test_workers_that_share_no_disk_write_to_a_store_what_a_process_does_to_a_disk(
    cluster: FlinkCluster,
    store: Remote,
    broker: Broker,
    topics: tuple[str, str],
    fleet: Windows,
    tmp_path: Path,
) -> None:
    output = store / "out"
    survived(cluster, broker, topics[0], output, fleet, keyed=False)
    made = read_forecasts(output)
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))
    assert forecasts_written(output) == len(made)
