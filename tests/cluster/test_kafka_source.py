"""Tests of streams that read a real broker: first offsets, new partitions, an outage, and error messages."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks import numbers
from pipelines.sinks.kafka import Topics, check_topics
from pipelines.sources.base import Position
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from schemas.errors import ConfigError, DataError, OutputError
from tests.cluster.broker import Broker
from tests.cluster.streams import (
    WINDOWS,
    closed_windows,
    even_partitions,
    expected_forecasts,
    forecasts_of,
    job_of,
    produce,
    read_topic,
    rows_in_time_order,
    source_of,
)
from tests.comparisons import assert_same_frames
from tests.fleets import scales

pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")


def test_a_partition_added_while_a_stream_runs_is_read(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows = rows_in_time_order(fleet)
    home = even_partitions(fleet)
    produce(broker, topics[0], rows.head(200), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    assert isinstance(job.source, KafkaSource)
    new, done = f"{topics[0]}-4", list[str]()

    def add_partition(numbers_of_job: object) -> None:
        if closed_windows(job.output) >= 8 and not done:
            client = admin.AdminClient({"bootstrap.servers": broker.bootstrap})
            client.create_partitions([admin.NewPartitions(topics[0], 5)])[topics[0]].result(30)
            done.append("made")
        # Send rows to the new partition only after every shard reads it: rows sent sooner could be late.
        known = [new in shard.offsets for shard in numbers.read_shards(job.output)]
        if done == ["made"] and all(known):
            produce(broker, topics[0], rows[200:], home | {"series 3": 4, "series 7": 4})
            done.append("filled")
        if closed_windows(job.output) >= WINDOWS - 1:
            request_stop(job.stop_file)

    outcome = run_stream(replace(job, source=replace(job.source, look_s=0.2)), add_partition)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    offsets = [shard.offsets[new] for shard in state_table.read(job.states).shards]
    assert offsets == [60] * 3
    made = forecasts_of(read_topic(broker, topics[1]))
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), made, scales(fleet))


def test_a_stream_waits_for_a_broker_that_is_down(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows, home = rows_in_time_order(fleet), even_partitions(fleet)
    produce(broker, topics[0], rows.head(300), home)
    job = job_of(broker, topics, tmp_path / "out", "in-process")
    done: list[bool] = []

    def restart_broker(numbers_of_job: object) -> None:
        if closed_windows(job.output) >= 8 and not done:
            broker.kill()
            time.sleep(2)
            broker.restart()
            produce(broker, topics[0], rows[300:], home)
            done.append(True)
        if closed_windows(job.output) >= WINDOWS - 1:
            request_stop(job.stop_file)

    outcome = run_stream(job, restart_broker)
    assert outcome.counts.rows_in == len(rows)
    assert outcome.counts.missing == outcome.counts.late == 0
    made = forecasts_of(read_topic(broker, topics[1]))
    assert_same_frames(expected_forecasts(fleet, tmp_path / "a"), made, scales(fleet))


def test_kafka_source_uses_start_setting_and_refuses_nonexistent_offsets(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    produce(broker, topics[0], rows_in_time_order(fleet), dict.fromkeys(fleet.series_ids, 2))
    after = datetime.now(UTC) + timedelta(hours=1)
    for start, offset in (("earliest", 0), ("latest", 800), (before, 0), (after, 800)):
        places = source_of(broker, topics[0], tmp_path, start=start).begin({})
        assert places[f"{topics[0]}-2"].offset == offset
        assert len(places) == 4
    for reached in (801, 10**6):
        with pytest.raises(DataError, match="the broker has the offsets 0 to 800"):
            source_of(broker, topics[0], tmp_path).begin({f"{topics[0]}-2": Position(reached)})


def test_errors_of_kafka_topics_have_one_line_and_no_passwords(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no topic 'nothing': correct kafka\.topic"):
        source_of(broker, "nothing", tmp_path).begin({})
    with pytest.raises(OutputError, match=r"no topic 'nothing': create it, or change kafka\.to_topic"):
        check_topics(Topics(Address(broker.bootstrap), "nothing"))
    login = (("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "me"))
    source = source_of(broker, "nothing", tmp_path)
    with pytest.raises((DataError, ConfigError)) as error:
        replace(source, broker=Address(broker.bootstrap, (*login, ("sasl.password", "hush")))).begin({})
    assert "\n" not in str(error.value)
    assert "hush" not in str(error.value)
    assert "hush" not in repr(Address(broker.bootstrap, (("sasl.password", "hush"),)))
