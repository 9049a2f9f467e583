"""Streams from a real broker into a real broker: as the backfill of the same rows, killed or not."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
import pytest

from forecaster.windows import Windows
from pipelines.jobs.forecast import BackfillJob, Runner, StreamJob, run_backfill, run_stream
from pipelines.kafka import Broker as Address
from pipelines.sinks import numbers
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.kafka import Topics
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.tables import Columns
from tests.cluster.broker import Broker
from tests.fleets import START, assert_same_frames, forecaster, rows_of, scales
from tests.processes import started
from tests.topics import values_of

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")

WINDOWS = 40
SHARES = (0.55, 0.3, 0.15, 0.0)  # of the series, by partition: uneven, and the last is idle
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def fleet() -> Windows:
    chance = np.random.default_rng(5)
    return Windows(
        tuple(f"series {i}" for i in range(20)), START, chance.normal(size=(WINDOWS, 20)).cumsum(0)
    )


@pytest.fixture
def topics(broker: Broker) -> tuple[str, str]:
    """Two new topics, of four partitions each: one to read and one to write."""
    mine = f"in-{uuid4().hex[:8]}", f"out-{uuid4().hex[:8]}"
    make(broker, *mine)
    return mine


def make(broker: Broker, *names: str, partitions: int = 4) -> None:
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for made in client.create_topics([admin.NewTopic(name, partitions, 1) for name in names]).values():
        made.result(30)


def homes(windows: Windows) -> dict[str, int]:
    """The partition of each series."""
    bounds = (np.cumsum(SHARES) * len(windows.series_ids)).round()
    return {name: int(np.searchsorted(bounds, i, "right")) for i, name in enumerate(windows.series_ids)}


def produce(broker: Broker, topic: str, rows: pl.DataFrame, home: dict[str, int]) -> None:
    client = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for series, value in zip(rows["series_id"], values_of(rows), strict=True):
        client.produce(topic, value, partition=home[series])
    assert client.flush(PATIENCE_S) == 0


def in_time(fleet: Windows) -> pl.DataFrame:
    return rows_of(fleet).sort("timestamp")


def consumed(broker: Broker, topic: str) -> list[Any]:
    """Every message of a topic."""
    client = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "test",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    client.assign([confluent_kafka.TopicPartition(topic, p, 0) for p in range(4)])
    found, ended = [], set[int]()
    while len(ended) < 4:
        for message in client.consume(1000, 1.0):
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().name() == "_PARTITION_EOF"
                ended.add(message.partition())
    client.close()
    return found


def identity(message: Any) -> tuple[str, ...]:
    """What a consumer drops repeats by."""
    headers = dict(message.headers())
    return (
        message.key().decode(),
        *(headers[n].decode() for n in ("issued_at", "model_version", "revision")),
    )


def forecasts_of(messages: Sequence[Any]) -> pl.DataFrame:
    """The forecasts in JSON messages, each once."""
    once = {identity(message): message.value() for message in messages}
    rows = [json.loads(value) for value in once.values()]
    frame = pl.DataFrame(rows, schema_overrides={"revision": pl.Int32})
    return frame.with_columns(pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"))


def source_of(broker: Broker, topic: str, output: Path, **more: Any) -> KafkaSource:
    how = Input(Columns(), max_future_s=3600)
    return KafkaSource(
        Address(broker.bootstrap), topic, DecoderSpec(), how, 3600, output / "state", idle_s=1.0, **more
    )


def job_of(broker: Broker, topics: tuple[str, str], output: Path, runner: Runner, **more: Any) -> StreamJob:
    source = source_of(broker, topics[0], output)
    sent = Topics(Address(broker.bootstrap), topics[1])
    return StreamJob(
        forecaster(), source, output, 3, resume=True, snapshot_every_s=0.5, runner=runner, topics=sent, **more
    )


def closed(output: Path) -> int:
    """Windows that all shards have closed."""
    shards = numbers.read_shards(output)
    ends = [shard.closed_us for shard in shards]
    if len(ends) < 3 or None in ends:
        return 0
    return min(end for end in ends if end is not None) // 3_600_000_000 - START


def stopped_at(job: StreamJob, windows: int) -> Any:
    """Runs a stream until it has closed so many windows."""
    until_s = time.monotonic() + PATIENCE_S

    def look(told: object) -> None:
        if closed(job.output) >= windows or time.monotonic() > until_s:
            ask_to_stop(job.stop_file)

    return run_stream(job, look)


def expected(fleet: Windows, folder: Path) -> pl.DataFrame:
    """The forecasts of a backfill of the same rows, all but the last window's."""
    path = folder / "rows.parquet"
    folder.mkdir(exist_ok=True)
    in_time(fleet).write_parquet(path)
    run_backfill(BackfillJob(forecaster(), (str(path),), Input(Columns()), folder / "out", 2))
    made = read_forecasts(folder / "out")
    return made.filter(pl.col("issued_at") < made["issued_at"].max())


@pytest.fixture(params=["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def runner(request: pytest.FixtureRequest) -> Runner:
    return request.param  # type: ignore[no-any-return]


def test_a_stream_from_a_topic_forecasts_what_a_backfill_of_its_rows_does(
    broker: Broker, topics: tuple[str, str], fleet: Windows, runner: Runner, tmp_path: Path
) -> None:
    rows, home = in_time(fleet), homes(fleet)
    job = job_of(broker, topics, tmp_path / "out", runner)

    def fill() -> None:
        for part in rows.iter_slices(100):
            produce(broker, topics[0], part, home)
            time.sleep(0.1)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    outcome = stopped_at(job, WINDOWS - 1)
    thread.join()
    assert outcome.counts.missing == outcome.counts.late == outcome.counts.rejected == 0
    assert outcome.counts.rows_in == len(rows)
    messages = consumed(broker, topics[1])
    assert len({identity(m) for m in messages}) == len(messages)
    assert len({(m.key(), m.partition()) for m in messages}) == len(fleet.series_ids)
    assert_same_frames(expected(fleet, tmp_path / "a"), forecasts_of(messages), scales(fleet))
    assert not any((job.output / "forecasts").iterdir())


_CHILD = """
import sys
from pathlib import Path
from tests.cluster.test_kafka import child
child(*sys.argv[1:])
"""


def child(bootstrap: str, topic: str, to_topic: str, output: str, runner: str) -> None:
    """A stream in a process of its own."""

    class At:
        def __init__(self) -> None:
            self.bootstrap = bootstrap

    run_stream(job_of(At(), (topic, to_topic), Path(output), runner))  # type: ignore[arg-type]


def killed_at(broker: Broker, topics: tuple[str, str], output: Path, runner: Runner, windows: int) -> None:
    """Runs a stream in another process, which SIGKILL ends."""
    arguments = [broker.bootstrap, *topics, str(output), runner]
    process = started([sys.executable, "-c", _CHILD, *arguments], cwd=Path(__file__).parents[2])
    try:
        until_s = time.monotonic() + PATIENCE_S
        while closed(output) < windows and time.monotonic() < until_s:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert closed(output) >= windows


def test_killed_in_the_middle_it_ends_with_the_same_forecasts_by_identity(
    broker: Broker, topics: tuple[str, str], fleet: Windows, runner: Runner, tmp_path: Path
) -> None:
    rows, home, output = in_time(fleet), homes(fleet), tmp_path / "out"
    for number, (first, windows) in enumerate([(0, 8), (300, 20)]):
        produce(broker, topics[0], rows[first : 300 + 300 * number], home)
        killed_at(broker, topics, output, runner, windows)
    produce(broker, topics[0], rows[600:], home)
    outcome = stopped_at(job_of(broker, topics, output, "in-process"), WINDOWS - 1)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    messages = consumed(broker, topics[1])
    assert_same_frames(expected(fleet, tmp_path / "a"), forecasts_of(messages), scales(fleet))
