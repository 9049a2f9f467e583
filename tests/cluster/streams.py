"""Functions for streams between two topics of a real broker, and for a backfill of the same rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecaster.model import Forecaster
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks import numbers
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.kafka import Topics
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from pipelines.storage import Location
from tests.cluster.broker import Broker
from tests.fleets import HOUR, START, forecaster, rows_of
from tests.topics import values_of

WINDOWS = 40
SHARES = (0.55, 0.3, 0.15, 0.0)  # share of the series in each partition; the last partition gets no series
PATIENCE_S = 120.0
IDLE_S = 4.0  # a shorter time would make a slow partition on a busy machine count as idle


def create_topics(broker: Broker, *names: str, partitions: int = 4) -> None:
    """Create empty topics."""
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    client = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for made in client.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
        made.result(30)


def even_partitions(windows: Windows) -> dict[str, int]:
    """Return a partition for each series, so that all four partitions have equally many series."""
    return {name: i % 4 for i, name in enumerate(windows.series_ids)}


def uneven_partitions(windows: Windows) -> dict[str, int]:
    """Return a partition for each series; `SHARES` gives the share of all series that each partition gets."""
    bounds = (np.cumsum(SHARES) * len(windows.series_ids)).round()
    return {name: int(np.searchsorted(bounds, i, "right")) for i, name in enumerate(windows.series_ids)}


def produce(broker: Broker, topic: str, rows: pl.DataFrame, home: dict[str, int]) -> None:
    """Send rows as JSON, each to the partition of its series, and wait until all are delivered."""
    import confluent_kafka

    client = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for series, value in zip(rows["series_id"], values_of(rows), strict=True):
        client.produce(topic, value, partition=home[series])
    assert client.flush(PATIENCE_S) == 0


def rows_in_time_order(fleet: Windows) -> pl.DataFrame:
    """Return the rows of a fleet, sorted by timestamp."""
    return rows_of(fleet).sort("timestamp")


def read_topic(broker: Broker, topic: str) -> list[Any]:
    """Return all messages of a topic."""
    import confluent_kafka

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
            if (error := message.error()) is None:
                found.append(message)
            else:
                assert error.name() == "_PARTITION_EOF"
                partition = message.partition()
                assert partition is not None
                ended.add(partition)
    client.close()
    return found


def identity(message: Any) -> tuple[str, ...]:
    """Return the key and headers of a message, which are equal in all messages with the same forecast."""
    headers = dict(message.headers())
    return (
        message.key().decode(),
        *(headers[n].decode() for n in ("issued_at", "model_version", "revision")),
    )


def forecasts_of(messages: Sequence[Any]) -> pl.DataFrame:
    """Return the forecasts in JSON messages, without repeats."""
    once = {identity(message): message.value() for message in messages}
    rows = [json.loads(value) for value in once.values()]
    frame = pl.DataFrame(rows, schema_overrides={"revision": pl.Int32})
    return frame.with_columns(pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"))


def source_of(broker: Broker, topic: str, output: Path, **more: Any) -> KafkaSource:
    """Return a source that reads ``topic`` and keeps its journal in the state table of ``output``."""
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
    """Return a stream with ``resume=True`` and three shards, from ``topics[0]`` to ``topics[1]``."""
    source = source_of(broker, topics[0], output, idle_s=idle_s)
    if keyed:
        source = replace(source, keyed_shards=3, read_series_shards=state_table.read_series_shards)
    sent = Topics(Address(broker.bootstrap), topics[1])
    return StreamJob(
        forecaster(), source, output, 3, resume=True, snapshot_every_s=0.5, runner=runner, topics=sent
    )


def closed_windows(output: Location) -> int:
    """Return how many windows from START on every shard has closed; 0 until all three have closed one."""
    shards = numbers.read_shards(output)
    ends = [shard.closed_us for shard in shards]
    if len(ends) < 3 or None in ends:
        return 0
    return min(end for end in ends if end is not None) // 3_600_000_000 - START


def run_until_closed(job: StreamJob, windows: int) -> Any:
    """Run a stream until all shards have closed ``windows`` windows or time is up; return its outcome."""
    until_s = time.monotonic() + PATIENCE_S

    def stop_when_closed(numbers_of_job: object) -> None:
        if closed_windows(job.output) >= windows or time.monotonic() > until_s:
            request_stop(job.stop_file)

    return run_stream(job, stop_when_closed)


def expected_forecasts(fleet: Windows, folder: Path, model: Forecaster | None = None) -> pl.DataFrame:
    """Return the forecasts that `forecasts_of_rows` computes from the rows of a fleet."""
    return forecasts_of_rows(rows_in_time_order(fleet), folder, model)


def forecasts_of_rows(rows: pl.DataFrame, folder: Path, model: Forecaster | None = None) -> pl.DataFrame:
    """Return the forecasts of a backfill of rows, without the forecasts of its last issue time.

    A stream never issues at the last issue time, because no later row closes the last window.
    """
    path = folder / "rows.parquet"
    folder.mkdir(exist_ok=True)
    rows.write_parquet(path)
    run_backfill(BackfillJob(model or forecaster(), (str(path),), Input(Columns()), folder / "out", 2))
    made = read_forecasts(folder / "out")
    return made.filter(pl.col("issued_at") < made["issued_at"].max())
