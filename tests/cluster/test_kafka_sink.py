"""Tests of messages that a stream sends to a real broker: forecasts, late rows and rejected rows."""

from __future__ import annotations

import http.server
import importlib.util
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import fastavro
import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines.schema_registry import AVRO_HEADER
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks.files import SHADOW
from pipelines.sinks.kafka import Topics
from pipelines.state import state_table
from schemas.errors import OutputError
from tests.cluster.broker import Broker
from tests.cluster.streams import (
    IDLE_S,
    PATIENCE_S,
    WINDOWS,
    create_topics,
    even_partitions,
    expected_forecasts,
    forecasts_of,
    job_of,
    produce,
    read_topic,
    rows_in_time_order,
    run_until_closed,
)
from tests.comparisons import assert_same_frames
from tests.fleets import forecaster, scales

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")


def test_rejected_and_late_rows_are_sent_to_topics_with_their_offsets(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    late, bad = f"late-{uuid4().hex[:8]}", f"bad-{uuid4().hex[:8]}"
    create_topics(broker, late, bad)
    rows, home = rows_in_time_order(fleet).head(400), dict.fromkeys(fleet.series_ids, 0)
    produce(broker, topics[0], rows, home)
    client = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for value in (b"nope", b'{"series_id": "a", "timestamp": "2013-01-01", "value": "much"}', None):
        client.produce(topics[0], value, partition=0)
    assert client.flush(PATIENCE_S) == 0
    produce(broker, topics[0], pl.concat([rows.head(2), rows_in_time_order(fleet)[400:]]), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process", 1.0)
    assert job.topics is not None
    counts = run_until_closed(replace(job, topics=replace(job.topics, late=late, quarantine=bad)), 38).counts
    assert (counts.rejected, counts.late, counts.missing) == (3, 2, 0)
    assert not any((job.output / "late").glob("*"))
    found = {message.key().decode(): json.loads(message.value()) for message in read_topic(broker, bad)}
    assert set(found) == {f"{topics[0]}/0/{offset}" for offset in (400, 401, 402)}
    assert found[f"{topics[0]}/0/400"]["reason"] == "is not a JSON object; nope"
    assert found[f"{topics[0]}/0/401"]["reason"] == "'much' is not a number"
    assert "tombstone" in found[f"{topics[0]}/0/402"]["reason"]
    headers = [dict(message.headers()) for message in read_topic(broker, late)]
    assert sorted((h["partition"], h["offset"]) for h in headers) == [
        (f"{topics[0]}-0".encode(), str(offset).encode()) for offset in (403, 404)
    ]


@pytest.mark.parametrize("format_", ["arrow", "avro"])
def test_forecasts_are_sent_to_a_topic_in_arrow_and_avro(
    broker: Broker,
    topics: tuple[str, str],
    fleet: Windows,
    tmp_path: Path,
    format_: Any,
    registry: str,
) -> None:
    produce(broker, topics[0], rows_in_time_order(fleet), even_partitions(fleet))
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    sent = Topics(Address(broker.bootstrap), topics[1], format_, registry)
    run_until_closed(replace(job, topics=sent), WINDOWS - 1)
    values = [message.value() for message in read_topic(broker, topics[1])]
    if format_ == "arrow":
        made = pl.concat(pl.read_ipc_stream(io.BytesIO(value)) for value in values)
    else:
        schema = fastavro.parse_schema(json.loads(REGISTERED[f"/subjects/{topics[1]}-value/versions"]))
        assert {value[:5] for value in values} == {AVRO_HEADER.pack(0, 7)}
        read = [fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None) for value in values]
        made = pl.DataFrame(read, schema_overrides={"revision": pl.Int32})
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), made, scales(fleet))


def test_forecasts_of_a_shadow_are_sent_to_their_own_topic(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    shadow_topic, shadow = f"shadow-{uuid4().hex[:8]}", forecaster("gru", seed=3)
    create_topics(broker, shadow_topic)
    produce(broker, topics[0], rows_in_time_order(fleet), even_partitions(fleet))
    job = replace(job_of(broker, topics, tmp_path / "out", "in-process"), shadow=shadow)
    assert job.topics is not None
    run_until_closed(replace(job, topics=replace(job.topics, shadow=shadow_topic)), WINDOWS - 1)
    assert not any((job.output / SHADOW).glob("*"))
    in_use, beside = (forecasts_of(read_topic(broker, topic)) for topic in (topics[1], shadow_topic))
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), in_use, scales(fleet))
    assert_same_frames(expected_forecasts(fleet, tmp_path / "b", shadow), beside, scales(fleet))


REGISTERED: dict[str, str] = {}


@pytest.fixture
def registry() -> Iterator[str]:
    """Run a schema registry that accepts every schema and answers with id 7; yield its URL."""

    class AcceptAll(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            REGISTERED[self.path] = body["schema"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"id": 7}')

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AcceptAll) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_job_with_an_undelivered_message_fails_before_its_snapshot(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    """Otherwise the resumed job would not send the message again."""
    produce(broker, topics[0], rows_in_time_order(fleet), even_partitions(fleet))
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    soon = (("topic.metadata.propagation.max.ms", "1000"),)
    job = replace(job, topics=Topics(Address(broker.bootstrap, soon), "no-such-topic"))
    with pytest.raises(OutputError, match="no-such-topic"):
        run_until_closed(job, WINDOWS - 1)
    assert state_table.read(job.states).closed_through is None


def import_example(name: str) -> ModuleType:
    """Import an example program from docs/ and return it as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_stream_reads_all_rows_of_the_example_producer(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows_in_time_order(fleet).write_parquet(tmp_path / "rows.parquet")
    topic = f"{topics[0]}-new"
    import_example("kafka_producer").main(broker.bootstrap, topic, str(tmp_path / "rows.parquet"))
    # The topic exists already, so the example must not try to create it again.
    import_example("kafka_producer").make(broker.bootstrap, topic)
    run_until_closed(job_of(broker, (topic, topics[1]), tmp_path / "out", "in-process", IDLE_S), WINDOWS - 1)
    table = state_table.read(tmp_path / "out" / "state")
    assert table.counts.rows_in == len(rows_in_time_order(fleet))
    assert not table.counts.rejected


def test_the_example_consumer_yields_each_forecast_once(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    example = import_example("kafka_consumer")
    produce(broker, topics[0], rows_in_time_order(fleet), even_partitions(fleet))
    for name in ("a", "b"):  # job b sends the same forecasts as job a again
        run_until_closed(job_of(broker, topics, tmp_path / name, "in-process"), WINDOWS - 1)
    messages = read_topic(broker, topics[1])
    passed = list(example.forecasts(messages, example.Once()))
    assert len(messages) == 2 * len(passed)
    assert len(passed) == len({(one["series_id"], one["issued_at"]) for one in passed})
    assert len(passed) == len(expected_forecasts(fleet, tmp_path / "c"))
