"""A topic as a log: where it begins, what its messages become, what is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.batch import Batch
from forecaster.lateness import BEFORE, NEVER
from pipelines.kafka import Broker
from pipelines.sources.base import Log, Place, Places
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource, forget
from pipelines.sources.kafka.carried import Carried
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.tables import Columns
from schemas.errors import ConfigError, DataError
from tests.fleets import HOUR
from tests.pipelines.sources.logs import Clock
from tests.topics import CAME_MS, Topic

HOUR_US = 3_600_000_000


def row(hour: int, value: object = 1.0, day: str = "2013-01-01") -> bytes:
    return json.dumps({"series_id": "a", "timestamp": f"{day}T{hour:02}:30Z", "value": value}).encode()


def source_of(topic: Topic, folder: Path, **more: object) -> KafkaSource:
    how = Input(Columns(), max_future_s=3600)
    made = KafkaSource(Broker("nowhere:9092"), "rows", DecoderSpec(), how, HOUR, folder, opens=topic)
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
    (batch,) = stride.batches
    newest = [None, 5, 6, 6, 6, 9, 9]
    expected = [NEVER if h is None else (376_944 + h) * HOUR_US + HOUR_US // 2 for h in newest]
    assert (batch.start, batch.stop, batch.before_us) == (0, 7, None)
    assert batch.rows[BEFORE].to_list() == expected


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
    places = source.begin(
        {"rows-0": Place(1, 7 * HOUR_US, (3,), 9 * HOUR_US)}
    )  # what a shard closed is closed
    assert places["rows-1"] == Place(0, 9 * HOUR_US)


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
    assert announced.partitions == 1
    stride = reading.step(stride.places)
    assert [(b.partition, b.partitions) for b in stride.batches] == [("rows-1", 2)]
    known_us = places["rows-0"].watermark_us
    assert known_us is not None
    ahead = {"rows-0": places["rows-0"]._replace(ahead_us=known_us + HOUR_US)}
    (announced,) = reading.step(ahead).batches
    assert announced.watermark_us == ahead["rows-0"].ahead_us


def read_all(reading: Reading, places: Places) -> Places:
    for _ in range(99):
        places = reading.step(places).places
    return places


def of(series: str, hour: int) -> bytes:
    return row(hour).replace(b'"a"', f'"{series}"'.encode())


def test_the_batches_of_a_keyed_topic_are_for_the_shard_that_follows_their_partition(tmp_path: Path) -> None:
    topic = Topic({n: [of(f"s{n}", 5)] for n in range(4)}, dict.fromkeys(range(3), 0))
    source = source_of(topic, tmp_path, keyed_shards=2, look_s=0.0, idle_s=1e9)
    reading, places = Reading(source), source.begin({})
    topic.fill()
    batches: list[Batch] = []
    while len(places) < 4 or min(place.offset for place in places.values()) < 1:
        stride = reading.step(places)
        places, batches = stride.places, [*batches, *stride.batches]
    assert {b.partition: b.shard for b in batches} == {f"rows-{n}": n % 2 for n in range(4)}
    assert {b.partition: b.partitions for b in batches if b.shard == 0} == {"rows-0": 2, "rows-2": 2}
    assert {name: place.shard for name, place in source.begin(places).items()} == {
        f"rows-{n}": n % 2 for n in range(4)
    }
    with pytest.raises(ConfigError, match=r"jobs\.shards = 5, 'rows' has 4 partitions: with kafka\.keyed"):
        replace(source, keyed_shards=5).begin({})


def test_a_series_of_a_keyed_topic_that_strays_into_a_partition_of_another_shard_ends_the_job(
    tmp_path: Path,
) -> None:
    topic = Topic({0: [of("s", 5)], 1: [], 2: [of("s", 6)], 3: [of("t", 6), of("s", 7)]})
    topic.fill()
    source = source_of(topic, tmp_path, keyed_shards=2, poll_rows=10**6)
    known = replace(source, homes=lambda folder: {"t": 0})
    for asked, series in ((source, "s"), (known, "t")):
        reading, places = Reading(asked), asked.begin({})
        topic.chance = np.random.default_rng(0)
        with pytest.raises(DataError, match=rf"rows/3: the series '{series}' has rows here, .* of shard 0: "):
            read_all(reading, places)


def test_an_idle_partition_of_a_keyed_topic_waits_for_no_partition_of_another_shard(tmp_path: Path) -> None:
    hours = {0: 9, 1: 6}  # the newest of the partitions that are busy
    topic = Topic(
        {n: [of(f"s{n}", hours.get(n, 5)), of(f"s{n}", 9)] for n in range(4)}, dict.fromkeys(range(4), 1)
    )
    expected = {None: {2: 6, 3: 6}, 2: {2: 9, 3: 6}}
    for shards in (None, 2):
        topic.there, clock = dict.fromkeys(range(4), 1), Clock(0.0)
        (folder := tmp_path / str(shards)).mkdir()
        source = source_of(topic, folder, keyed_shards=shards, poll_rows=10**6)
        reading = Reading(source, clock)
        places = read_all(reading, source.begin({}))
        clock.now_s += 31
        for number in hours:
            reading.quiet[f"rows-{number}"].since_s = clock.now_s
        places = reading.step(places).places
        found = {n: places[f"rows-{n}"].watermark_us for n in (2, 3)}
        assert found == {n: (376_944 + h) * HOUR_US + HOUR_US // 2 for n, h in expected[shards].items()}


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
