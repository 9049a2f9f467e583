"""Tests that a stream between topics of a real broker gives the forecasts of a backfill, also after kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import Runner
from pipelines.state import state_table
from tests.cluster.broker import Broker
from tests.cluster.streams import (
    IDLE_S,
    PATIENCE_S,
    WINDOWS,
    closed_windows,
    expected_forecasts,
    forecasts_of,
    identity,
    job_of,
    produce,
    read_topic,
    rows_in_time_order,
    run_until_closed,
    uneven_partitions,
)
from tests.comparisons import assert_same_frames
from tests.fleets import scales
from tests.forked import ForkedProcess

pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")


@pytest.fixture(params=["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def runner(request: pytest.FixtureRequest) -> Runner:
    return request.param  # type: ignore[no-any-return]


def test_a_stream_of_a_topic_gives_the_forecasts_of_a_backfill(
    broker: Broker, topics: tuple[str, str], fleet: Windows, runner: Runner, tmp_path: Path
) -> None:
    rows, home = rows_in_time_order(fleet), uneven_partitions(fleet)
    job = job_of(broker, topics, tmp_path / "out", runner, IDLE_S)

    def fill() -> None:
        for part in rows.iter_slices(100):
            produce(broker, topics[0], part, home)
            time.sleep(0.1)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    outcome = run_until_closed(job, WINDOWS - 1)
    thread.join()
    assert outcome.counts.missing == outcome.counts.late == outcome.counts.rejected == 0
    assert outcome.counts.rows_in == len(rows)
    messages = read_topic(broker, topics[1])
    assert len({identity(m) for m in messages}) == len(messages)
    assert len({(m.key(), m.partition()) for m in messages}) == len(fleet.series_ids)
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), forecasts_of(messages), scales(fleet))
    assert not any((job.output / "forecasts").glob("*"))


_CHILD_CODE = """
import sys
from pathlib import Path
from tests.cluster.test_kafka import child
child(*sys.argv[1:])
"""


def child(bootstrap: str, topic: str, to_topic: str, output: str, runner: str, keyed: str) -> None:
    """Run a stream; `run_until_kill` calls this function in another process."""

    class BrokerAddress:
        def __init__(self) -> None:
            self.bootstrap = bootstrap

    job = job_of(BrokerAddress(), (topic, to_topic), Path(output), runner, IDLE_S, bool(keyed))  # type: ignore[arg-type]
    run_stream(job)


def run_until_kill(
    broker: Broker, topics: tuple[str, str], output: Path, runner: Runner, windows: int, keyed: bool
) -> None:
    """Run a stream in another process, and kill it when it has closed ``windows`` windows."""
    arguments = [broker.bootstrap, *topics, str(output), runner, "keyed" if keyed else ""]
    process = ForkedProcess(["-c", _CHILD_CODE, *arguments])
    try:
        until_s = time.monotonic() + PATIENCE_S
        while closed_windows(output) < windows and time.monotonic() < until_s:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert closed_windows(output) >= windows


@pytest.mark.parametrize("keyed", [False, True])
def test_a_killed_and_resumed_stream_gives_the_forecasts_of_a_backfill(
    broker: Broker, topics: tuple[str, str], fleet: Windows, runner: Runner, keyed: bool, tmp_path: Path
) -> None:
    rows, home, output = rows_in_time_order(fleet), uneven_partitions(fleet), tmp_path / "out"
    for number, (first, windows) in enumerate([(0, 8), (300, 20)]):
        produce(broker, topics[0], rows[first : 300 + 300 * number], home)
        run_until_kill(broker, topics, output, runner, windows, keyed)
    produce(broker, topics[0], rows[600:], home)
    outcome = run_until_closed(job_of(broker, topics, output, "in-process", IDLE_S, keyed), WINDOWS - 1)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    partitions = [sorted(shard.offsets) for shard in state_table.read(output / "state").shards]
    own = [[f"{topics[0]}-{n}" for n in range(4) if n % 3 == number] for number in range(3)]
    assert partitions == (own if keyed else [[f"{topics[0]}-{n}" for n in range(4)]] * 3)
    messages = read_topic(broker, topics[1])
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), forecasts_of(messages), scales(fleet))
