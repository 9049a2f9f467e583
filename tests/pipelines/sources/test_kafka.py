"""A topic as a log: where it begins, what its messages become, what is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.shard import Batch
from pipelines.kafka import Broker
from pipelines.sources.base import Log, Place
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource, forget
from pipelines.sources.kafka.carried import Carried
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.tables import Columns
from schemas.errors import ConfigError, DataError
from tests.pipelines.sources.logs import Clock
from tests.topics import CAME_MS, Topic

NEVER = np.iinfo(np.int64).min
HOUR_US = 3_600_000_000


def row(hour: int, value: object = 1.0, day: str = "2013-01-01") -> bytes:
    return json.dumps({"series_id": "a", "timestamp": f"{day}T{hour:02}:30Z", "value": value}).encode()


def source_of(topic: Topic, folder: Path, **more: object) -> KafkaSource:
    how = Input(Columns(), max_future_s=3600)
    made = KafkaSource(Broker("nowhere:9092"), "rows", DecoderSpec(), how, 3600, folder, opens=topic)
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_topic_is_a_log(tmp_path: Path) -> None:
    assert isinstance(source_of(Topic({}), tmp_path), Log)


def test_messages_become_rows_rejected_rows_and_rows_outside_each_at_its_offset(tmp_path: Path) -> None:
    values = [row(5), b"nope", row(6, "much"), row(7), None, row(0, day="2014-05-14"), row(8)]
    topic = Topic({0: values, 1: []}, {0: 7, 1: 0})
    source = source_of(topic, tmp_path, poll_rows=7)
    start_us = 376_944 * HOUR_US + 6 * HOUR_US
    source = replace(source, input=replace(source.input, start_us=start_us))
    reading, places = Reading(source), source.begin({})
    batches: list[Batch] = []
    while places["rows-0"].offset < 7:
        stride = reading.step(places)
        places, batches = stride.places, [*batches, *stride.batches]
    assert [o for b in batches for o in b.rows["offset"]] == [3, 6]
    assert sum(b.outside for b in batches) == 1
    rejected = [one for b in batches for one in b.rejected.select("file", "row", "column", "reason").rows()]
    assert rejected == [
        ("rows/0/1", 1, "", "is no JSON object; nope"),
        ("rows/0/2", 1, "value", "'much' is not a number"),
        ("rows/0/4", 1, "", "the message is empty (a tombstone)"),
        ("rows/0/5", 1, "timestamp", "'2014-05-14T00:30Z' is more than 1h in the future"),
    ]
    assert {b.arrived_s for b in batches} == {CAME_MS / 1000}
    assert places["rows-0"] == Place(7, start_us + 2 * HOUR_US + HOUR_US // 2)
    assert batches[0].start == 0
    assert all(b.stop == after.start for b, after in pairwise(batches))


def test_a_row_is_late_by_the_rows_before_it_and_not_by_the_poll(tmp_path: Path) -> None:
    topic = Topic({0: [row(5), row(6), row(5), row(6), row(9), row(6), row(9)]}, {0: 7})
    source = source_of(topic, tmp_path, poll_rows=10**6)
    stride = Reading(source).step(source.begin({}))
    assert [(b.start, b.stop) for b in stride.batches] == [(0, 2), (2, 5), (5, 7)]


def test_what_is_gone_on_from_must_be_there(tmp_path: Path) -> None:
    source = source_of(Topic({0: [row(5)]}, {0: 1}), tmp_path)
    assert source.begin({"rows-0": Place(1, 5)}) == {"rows-0": Place(1, 5)}
    with pytest.raises(DataError, match=r"rows/0: the broker has the offsets 0 to 1, and we go on from 2"):
        source.begin({"rows-0": Place(2)})


def test_a_partition_that_came_up_since_begins_where_the_others_were(tmp_path: Path) -> None:
    source = source_of(Topic({0: [row(5)], 1: []}, {0: 1, 1: 0}), tmp_path)
    places = source.begin({"rows-0": Place(1, 7 * HOUR_US)})
    assert places["rows-1"] == Place(0, 7 * HOUR_US)
    assert Carried(source.carried).at("rows-1", 0, None) == 7 * HOUR_US


def test_a_partition_that_comes_up_is_announced_before_its_rows(tmp_path: Path) -> None:
    topic = Topic({0: [row(5)], 1: [row(7)]}, {0: 1})
    source = source_of(topic, tmp_path, look_s=0.0, poll_rows=10**6)
    reading, places = Reading(source), source.begin({})
    while places["rows-0"].watermark_us is None:
        places = reading.step(places).places
    topic.fill()
    stride = reading.step(places)
    (announced,) = stride.batches
    assert (announced.partition, announced.start, announced.stop) == ("rows-1", 0, 0)
    assert announced.watermark_us == places["rows-0"].watermark_us
    stride = reading.step(stride.places)
    assert [b.partition for b in stride.batches] == ["rows-1"]


def test_that_nothing_came_while_a_broker_was_away_is_no_silence(tmp_path: Path) -> None:
    topic, clock = Topic({0: [row(5), row(9)], 1: []}, {0: 1, 1: 0}), Clock(0.0)
    source = source_of(topic, tmp_path, poll_rows=10**6)
    reading, places = Reading(source, clock), source.begin({})
    for _ in range(50):
        places = reading.step(places).places
    consumer: Any = reading.consumer
    for away, carried in ((True, None), (False, 5 * HOUR_US + HOUR_US // 2 + 376_944 * HOUR_US)):
        consumer.troubles += away
        clock.now_s += 31
        places = reading.step(places).places
        assert places["rows-1"].watermark_us == carried


def test_one_consumer_serves_a_job_and_is_closed_when_it_is_forgotten(tmp_path: Path) -> None:
    opened = []
    topic = Topic({0: [row(5)]}, {0: 1})

    def opens(broker: Broker, name: str, group: str) -> object:
        opened.append(topic(broker, name, group))
        return opened[-1]

    source = source_of(topic, tmp_path, opens=opens)
    places = source.begin({})
    for _ in range(3):
        places = source.step(places).places
    assert len(opened) == 2
    assert [one.closed for one in opened] == [True, False]
    forget()
    assert opened[1].closed


def test_what_was_carried_is_found_again_and_a_line_that_broke_off_was_not(tmp_path: Path) -> None:
    path = tmp_path / "kafka.jsonl"
    carried = Carried(path)
    for offset, us in ((3, 10), (3, 20), (7, 15), (9, 40)):
        carried.add("a", offset, us)
    with path.open("a") as file:
        file.write('{"partition": "a", "off')
    for again in (carried, Carried(path), Carried(path)):
        assert again.before("a")(np.arange(11)).tolist() == [NEVER] * 3 + [20] * 6 + [40] * 2
        assert again.at("a", 4, 30) == 30
        assert again.at("a", 4, None) == 20
        assert again.at("b", 4, None) is None
    assert path.read_text().endswith("}\n")
    carried.add("b", 0, 1)
    assert Carried(path).at("b", 0, None) == 1
    path.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"kafka\.jsonl: cannot be read"):
        Carried(path)


def test_options_come_over_ours_and_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker("b:9092", (("linger.ms", "9"), ("sasl.password", "$KAFKA_TEST_PASSWORD")))
    with pytest.raises(ConfigError, match=r"kafka\.options\.sasl\.password = \$KAFKA_TEST_PASSWORD"):
        broker.settings(print)
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", "hush")
    settings = broker.settings(print, linger_ms=5, group_id="g")
    assert settings["linger.ms"] == "9"
    assert (settings["group.id"], settings["sasl.password"]) == ("g", "hush")
    assert "hush" not in repr(broker)
    assert "PASSWORD" not in repr(broker)
