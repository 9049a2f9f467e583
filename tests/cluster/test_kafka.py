"""Streams from a real broker into a real broker: as the backfill of the same rows, killed or not."""

from __future__ import annotations

import http.server
import importlib.util
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import fastavro
import numpy as np
import polars as pl
import pytest

from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.kafka import Broker as Address
from pipelines.registry import FRAME
from pipelines.sinks import numbers
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.kafka import Topics, check_topics
from pipelines.sources.base import Place
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.tables import Columns
from pipelines.storage import Location
from schemas.errors import ConfigError, DataError, OutputError
from tests.cluster.broker import Broker
from tests.fleets import HOUR, START, assert_same_frames, forecaster, rows_of, scales
from tests.processes import started
from tests.topics import values_of

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")

WINDOWS = 40
SHARES = (0.55, 0.3, 0.15, 0.0)  # of the series, by partition: uneven, and the last is idle
PATIENCE_S = 120.0
IDLE_S = 4.0  # a partition that is not idle must not seem so where the machine is busy


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


def evenly(windows: Windows) -> dict[str, int]:
    """The partition of each series: none is idle."""
    return {name: i % 4 for i, name in enumerate(windows.series_ids)}


def homes(windows: Windows) -> dict[str, int]:
    """The partition of each series, unevenly; one is idle."""
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
    return KafkaSource(Address(broker.bootstrap), topic, DecoderSpec(), how, HOUR, output / "state", **more)


def job_of(
    broker: Broker,
    topics: tuple[str, str],
    output: Path,
    runner: Runner,
    idle_s: float = 1e9,
    keyed: bool = False,
) -> StreamJob:
    source = source_of(broker, topics[0], output, idle_s=idle_s)
    if keyed:
        source = replace(source, keyed_shards=3, homes=state_table.homes)
    sent = Topics(Address(broker.bootstrap), topics[1])
    return StreamJob(
        forecaster(), source, output, 3, resume=True, snapshot_every_s=0.5, runner=runner, topics=sent
    )


def closed(output: Location) -> int:
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
    job = job_of(broker, topics, tmp_path / "out", runner, IDLE_S)

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
    assert not any((job.output / "forecasts").glob("*"))


_CHILD = """
import sys
from pathlib import Path
from tests.cluster.test_kafka import child
child(*sys.argv[1:])
"""


def child(bootstrap: str, topic: str, to_topic: str, output: str, runner: str, keyed: str) -> None:
    """A stream in a process of its own."""

    class At:
        def __init__(self) -> None:
            self.bootstrap = bootstrap

    job = job_of(At(), (topic, to_topic), Path(output), runner, IDLE_S, bool(keyed))  # type: ignore[arg-type]
    run_stream(job)


def killed_at(
    broker: Broker, topics: tuple[str, str], output: Path, runner: Runner, windows: int, keyed: bool
) -> None:
    """Runs a stream in another process, which SIGKILL ends."""
    arguments = [broker.bootstrap, *topics, str(output), runner, "keyed" if keyed else ""]
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


@pytest.mark.parametrize("keyed", [False, True])
def test_killed_in_the_middle_it_ends_with_the_same_forecasts_by_identity(
    broker: Broker, topics: tuple[str, str], fleet: Windows, runner: Runner, keyed: bool, tmp_path: Path
) -> None:
    rows, home, output = in_time(fleet), homes(fleet), tmp_path / "out"
    for number, (first, windows) in enumerate([(0, 8), (300, 20)]):
        produce(broker, topics[0], rows[first : 300 + 300 * number], home)
        killed_at(broker, topics, output, runner, windows, keyed)
    produce(broker, topics[0], rows[600:], home)
    outcome = stopped_at(job_of(broker, topics, output, "in-process", IDLE_S, keyed), WINDOWS - 1)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    followed = [sorted(shard.offsets) for shard in state_table.read(output / "state").shards]
    alone = [[f"{topics[0]}-{n}" for n in range(4) if n % 3 == number] for number in range(3)]
    assert followed == (alone if keyed else [[f"{topics[0]}-{n}" for n in range(4)]] * 3)
    messages = consumed(broker, topics[1])
    assert_same_frames(expected(fleet, tmp_path / "a"), forecasts_of(messages), scales(fleet))


def test_what_is_no_row_and_what_is_late_is_sent_on_with_its_place(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    late, bad = f"late-{uuid4().hex[:8]}", f"bad-{uuid4().hex[:8]}"
    make(broker, late, bad)
    rows, home = in_time(fleet).head(400), dict.fromkeys(fleet.series_ids, 0)
    produce(broker, topics[0], rows, home)
    client = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for value in (b"nope", b'{"series_id": "a", "timestamp": "2013-01-01", "value": "much"}', None):
        client.produce(topics[0], value, partition=0)
    assert client.flush(PATIENCE_S) == 0
    produce(broker, topics[0], pl.concat([rows.head(2), in_time(fleet)[400:]]), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process", 1.0)
    assert job.topics is not None
    counts = stopped_at(replace(job, topics=replace(job.topics, late=late, quarantine=bad)), 38).counts
    assert (counts.rejected, counts.late, counts.missing) == (3, 2, 0)
    assert not any((job.output / "late").glob("*"))
    found = {message.key().decode(): json.loads(message.value()) for message in consumed(broker, bad)}
    assert set(found) == {f"{topics[0]}/0/{offset}" for offset in (400, 401, 402)}
    assert found[f"{topics[0]}/0/400"]["reason"] == "is no JSON object; nope"
    assert found[f"{topics[0]}/0/401"]["reason"] == "'much' is not a number"
    assert "tombstone" in found[f"{topics[0]}/0/402"]["reason"]
    told = [dict(message.headers()) for message in consumed(broker, late)]
    assert sorted((h["partition"], h["offset"]) for h in told) == [
        (f"{topics[0]}-0".encode(), str(offset).encode()) for offset in (403, 404)
    ]


def test_a_partition_that_comes_up_while_a_stream_runs_is_read(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows = in_time(fleet)
    home = evenly(fleet)
    produce(broker, topics[0], rows.head(200), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    assert isinstance(job.source, KafkaSource)
    done: list[bool] = []

    def grow(told: object) -> None:
        if closed(job.output) >= 8 and not done:
            client = admin.AdminClient({"bootstrap.servers": broker.bootstrap})
            client.create_partitions([admin.NewPartitions(topics[0], 5)])[topics[0]].result(30)
            produce(broker, topics[0], rows[200:], home | {"series 3": 4, "series 7": 4})
            done.append(True)
        if closed(job.output) >= WINDOWS - 1:
            ask_to_stop(job.stop_file)

    outcome = run_stream(replace(job, source=replace(job.source, look_s=0.2)), grow)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    offsets = [shard.offsets[f"{topics[0]}-4"] for shard in state_table.read(job.states).shards]
    assert offsets == [60] * 3
    made = forecasts_of(consumed(broker, topics[1]))
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))


def test_a_broker_that_is_away_for_a_while_is_waited_for(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows, home = in_time(fleet), evenly(fleet)
    produce(broker, topics[0], rows.head(300), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    done: list[bool] = []

    def fail(told: object) -> None:
        if closed(job.output) >= 8 and not done:
            broker.kill()
            time.sleep(2)
            broker.restart()
            produce(broker, topics[0], rows[300:], home)
            done.append(True)
        if closed(job.output) >= WINDOWS - 1:
            ask_to_stop(job.stop_file)

    outcome = run_stream(job, fail)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    made = forecasts_of(consumed(broker, topics[1]))
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))


@pytest.mark.parametrize("format_", ["arrow", "avro"])
def test_forecasts_are_sent_in_any_form(
    broker: Broker,
    topics: tuple[str, str],
    fleet: Windows,
    tmp_path: Path,
    format_: Any,
    registry: str,
) -> None:
    produce(broker, topics[0], in_time(fleet), evenly(fleet))
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    sent = Topics(Address(broker.bootstrap), topics[1], format_, registry)
    stopped_at(replace(job, topics=sent), WINDOWS - 1)
    values = [message.value() for message in consumed(broker, topics[1])]
    if format_ == "arrow":
        made = pl.concat(pl.read_ipc_stream(io.BytesIO(value)) for value in values)
    else:
        schema = fastavro.parse_schema(json.loads(REGISTERED[f"/subjects/{topics[1]}-value/versions"]))
        assert {value[:5] for value in values} == {FRAME.pack(0, 7)}
        read = [fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None) for value in values]
        made = pl.DataFrame(read, schema_overrides={"revision": pl.Int32})
    assert_same_frames(expected(fleet, tmp_path / "a"), made, scales(fleet))


REGISTERED: dict[str, str] = {}


@pytest.fixture
def registry() -> Iterator[str]:
    """The URL of a schema registry that takes any schema, as its seventh."""

    class Takes(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            REGISTERED[self.path] = body["schema"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"id": 7}')

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_message_that_is_not_delivered_fails_the_job_before_its_snapshot(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    produce(broker, topics[0], in_time(fleet), evenly(fleet))
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    soon = (("topic.metadata.propagation.max.ms", "1000"),)
    job = replace(job, topics=Topics(Address(broker.bootstrap, soon), "no-such-topic"))
    with pytest.raises(OutputError, match="no-such-topic"):
        stopped_at(job, WINDOWS - 1)
    assert state_table.read(job.states).closed_through is None


def test_where_a_stream_begins(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    produce(broker, topics[0], in_time(fleet), dict.fromkeys(fleet.series_ids, 2))
    after = datetime.now(UTC) + timedelta(hours=1)
    for start, offset in (("earliest", 0), ("latest", 800), (before, 0), (after, 800)):
        places = source_of(broker, topics[0], tmp_path, start=start).begin({})
        assert places[f"{topics[0]}-2"].offset == offset
        assert len(places) == 4
    for reached in (801, 10**6):
        with pytest.raises(DataError, match="the broker has the offsets 0 to 800"):
            source_of(broker, topics[0], tmp_path).begin({f"{topics[0]}-2": Place(reached)})


def test_what_is_wrong_with_a_topic_is_one_line(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no topic 'nothing': see kafka\.topic"):
        source_of(broker, "nothing", tmp_path).begin({})
    with pytest.raises(OutputError, match=r"there is no topic 'nothing' to write to: see kafka\.to_topic"):
        check_topics(Topics(Address(broker.bootstrap), "nothing"))
    login = (("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "me"))
    source = source_of(broker, "nothing", tmp_path)
    with pytest.raises((DataError, ConfigError)) as told:
        replace(source, broker=Address(broker.bootstrap, (*login, ("sasl.password", "hush")))).begin({})
    assert "\n" not in str(told.value)
    assert "hush" not in str(told.value)
    assert "hush" not in repr(Address(broker.bootstrap, (("sasl.password", "hush"),)))


def test_the_consumer_of_the_documentation_lets_each_forecast_through_once(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location(
        "kafka_consumer", Path(__file__).parents[2] / "docs" / "kafka_consumer.py"
    )
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    produce(broker, topics[0], in_time(fleet), evenly(fleet))
    for again in ("a", "b"):  # the same rows, forecast and sent a second time
        stopped_at(job_of(broker, topics, tmp_path / again, "in-process"), WINDOWS - 1)
    messages = consumed(broker, topics[1])
    passed = list(example.forecasts(messages, example.Once()))
    assert len(messages) == 2 * len(passed)
    assert len(passed) == len({(one["series_id"], one["issued_at"]) for one in passed})
    assert len(passed) == len(expected(fleet, tmp_path / "c"))
