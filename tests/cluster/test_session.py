"""Jobs on a session cluster, with workers of their own: as in process, killed or not."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.runners import java
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.files import FORECASTS, read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.reader import ask_to_stop
from pipelines.state import state_table
from pipelines.storage import BACKFILL, Location, Remote
from tests.cluster.broker import Broker
from tests.cluster.faults import running
from tests.cluster.fixtures import needs
from tests.cluster.flink import FlinkCluster
from tests.cluster.streams import PATIENCE_S, WINDOWS, closed, evenly, expected, in_time, produce, source_of
from tests.fleets import START, forecaster, scales
from tests.processes import started
from tests.same import assert_same_frames, assert_same_state
from tests.stores import forecasts_written, keys, s3_server

PIECE = 100  # rows that come at once
COMPACT = "%Y%m%dT%H%M%S%z"  # in names of files of forecasts

_ROOT = Path(__file__).parents[2]
_COMMAND = """
import sys
from pathlib import Path
from pipelines.jobs.forecast import run_stream
from tests.cluster.broker import Broker
from tests.cluster.test_session import stream_on
master, workers, broker, topic, output = sys.argv[1:]
run_stream(stream_on(master, workers, Broker(Path(broker)), topic, Path(output)))
"""


def stream_on(master: str, workers: str, broker: Broker, topic: str, output: Path) -> StreamJob:
    """A stream of a topic on a cluster, that goes on, and once only."""
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
    cluster: FlinkCluster,
    broker: Broker,
    topic: str,
    output: Location,
    fleet: Windows,
    keyed: bool,
    deaths: int,
) -> None:
    """Runs a stream on the cluster until it has closed its windows; of its two workers some are killed.

    They die when each shard has made forecasts that its last snapshot knows nothing of. What comes meanwhile
    has the run after it close other blocks of windows than these, unless a worker that lives on writes a
    snapshot in between: batches are cut at its place then.
    """
    rows, home = in_time(fleet), evenly(fleet)
    source = replace(source_of(broker, topic, Path()), folder=output / "state")
    if keyed:
        source = replace(source, keyed_shards=3, homes=state_table.homes)
    job = StreamJob(
        forecaster(),
        source,
        output,
        3,
        snapshot_every_s=2.0,
        runner="flink",
        flink=FlinkSettings(cluster.master, cluster.workers),
        restarts=3,
    )
    restarts: list[str] = []
    killed: list[int] = []
    left = list(rows.iter_slices(PIECE))
    until_s = time.monotonic() + 3 * PATIENCE_S  # Java and Python start twice
    produce(broker, topic, left.pop(0), home)

    def look(told: object) -> None:
        if not killed:
            unknown = behind(output)
            if unknown and min(unknown) > 0:
                assert cluster.pool.process is not None
                workers = cluster.pool.process.children()
                assert len(workers) == 2
                for worker in workers[:deaths]:
                    killed.append(worker.pid)
                    worker.kill()
                produce(broker, topic, pl.concat(left), home)
            elif unknown and max(unknown) == 0 and len(left) > 1:
                produce(broker, topic, left.pop(0), home)
        if closed(output) >= WINDOWS - 1 or time.monotonic() > until_s:
            ask_to_stop(job.stop_file)

    counts = run_stream(job, look, restarts.append).counts
    assert killed
    assert len(restarts) == 1
    assert counts.rows_in == len(rows)
    assert counts.missing == counts.late == counts.rejected == 0


def behind(output: Location) -> list[int]:
    """Of each shard how many windows it has made forecasts after that its snapshot knows nothing of.

    None before all have a snapshot with closed windows.
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


def test_a_keyed_topic_is_forecast_by_several_workers_as_in_process_and_one_of_them_is_killed(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    survived(cluster, broker, topics[0], tmp_path / "out", fleet, keyed=True, deaths=1)
    followed = [sorted(shard.offsets) for shard in state_table.read(tmp_path / "out" / "state").shards]
    assert followed == [[f"{topics[0]}-{n}" for n in range(4) if n % 3 == number] for number in range(3)]
    made = read_forecasts(tmp_path / "out")
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))
    assert forecasts_written(tmp_path / "out") == len(made)


def test_the_job_of_a_command_that_was_killed_makes_room_for_the_one_that_goes_on(
    cluster: FlinkCluster, broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows, output = in_time(fleet), tmp_path / "out"
    produce(broker, topics[0], rows, evenly(fleet))
    job = stream_on(cluster.master, cluster.workers, broker, topics[0], output)
    where = cluster.master, cluster.workers, str(broker.folder), topics[0], str(output)
    process = started([sys.executable, "-W", "ignore", "-c", _COMMAND, *where], cwd=_ROOT)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while closed(output) < 8:
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(running(cluster)) == 1, "nobody has told the cluster"

    def look(told: object) -> None:
        if closed(output) >= WINDOWS - 1:
            ask_to_stop(job.stop_file)

    counts = run_stream(job, look).counts
    assert counts.rows_in == len(rows)
    assert not running(cluster)
    assert_same_frames(expected(fleet, tmp_path / "a"), read_forecasts(output), scales(fleet))


def test_workers_that_share_no_disk_write_to_a_store_what_a_process_does_to_a_disk(
    cluster: FlinkCluster,
    store: Remote,
    broker: Broker,
    topics: tuple[str, str],
    fleet: Windows,
    tmp_path: Path,
) -> None:
    output = store / "out"
    survived(cluster, broker, topics[0], output, fleet, keyed=False, deaths=2)
    made = read_forecasts(output)
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))
    assert forecasts_written(output) == len(made)


def test_a_backfill_of_workers_that_share_no_disk_leaves_in_a_store_what_a_process_does_on_a_disk(
    cluster: FlinkCluster, store: Remote, fleet: Windows, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.parquet"
    in_time(fleet).write_parquet(rows)
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
