"""What a stream sends to a real broker: forecasts in any form, and rows that are late or none."""

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
from pipelines.schema_registry import FRAME
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks.kafka import Topics
from pipelines.state import state_table
from schemas.errors import OutputError
from tests.cluster.broker import Broker
from tests.cluster.streams import (
    IDLE_S,
    PATIENCE_S,
    WINDOWS,
    consumed,
    evenly,
    expected,
    in_time,
    job_of,
    make,
    produce,
    stopped_at,
)
from tests.fleets import scales
from tests.same import assert_same_frames

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")


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


def documented(name: str) -> ModuleType:
    """A program of the documentation."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_producer_of_the_documentation_sends_what_a_stream_forecasts_from(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    in_time(fleet).write_parquet(tmp_path / "rows.parquet")
    topic = f"{topics[0]}-new"
    documented("kafka_producer").main(broker.bootstrap, topic, str(tmp_path / "rows.parquet"))
    documented("kafka_producer").make(broker.bootstrap, topic)  # it is there by now
    stopped_at(job_of(broker, (topic, topics[1]), tmp_path / "out", "in-process", IDLE_S), WINDOWS - 1)
    table = state_table.read(tmp_path / "out" / "state")
    assert table.counts.rows_in == len(in_time(fleet))
    assert not table.counts.rejected


def test_the_consumer_of_the_documentation_lets_each_forecast_through_once(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    example = documented("kafka_consumer")
    produce(broker, topics[0], in_time(fleet), evenly(fleet))
    for again in ("a", "b"):  # the same rows, forecast and sent a second time
        stopped_at(job_of(broker, topics, tmp_path / again, "in-process"), WINDOWS - 1)
    messages = consumed(broker, topics[1])
    passed = list(example.forecasts(messages, example.Once()))
    assert len(messages) == 2 * len(passed)
    assert len(passed) == len({(one["series_id"], one["issued_at"]) for one in passed})
    assert len(passed) == len(expected(fleet, tmp_path / "c"))
