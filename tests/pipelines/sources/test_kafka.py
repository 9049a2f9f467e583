"""Tests of the Kafka source: each reading of a topic gives the same rows and watermarks.

For this, the source writes its decisions about partitions and schemas to a journal.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import BEFORE, NEVER
from pipelines.settings.kafka import Broker
from pipelines.sources.base import Log, Position, Positions, close_opened
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.kafka import decision_journal as decisions
from pipelines.sources.kafka.decision_journal import ClockDecision, Decisions, Refused
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec
from schemas.errors import ConfigError, DataError
from tests.fleets import HOUR
from tests.pipelines.registries import registry_of
from tests.pipelines.sources.logs import Clock
from tests.pipelines.sources.test_registry_schemas import KNOWN, record
from tests.topics import CAME_MS, Topic

HOUR_US = 3_600_000_000


def row(hour: int, value: object = 1.0, day: str = "2013-01-01") -> bytes:
    return json.dumps({"series_id": "a", "timestamp": f"{day}T{hour:02}:30Z", "value": value}).encode()


def source_of(topic: Topic, folder: Path, **more: object) -> KafkaSource:
    input_settings = Input(Columns(), max_future_s=3600)
    made = KafkaSource(
        Broker("nowhere:9092"), "rows", DecoderSpec(), input_settings, HOUR, folder, opens=topic
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_kafka_source_implements_the_log_protocol(tmp_path: Path) -> None:
    assert isinstance(source_of(Topic({}), tmp_path), Log)


def test_messages_become_valid_or_rejected_rows_at_their_offsets(tmp_path: Path) -> None:
    values = [row(5), b"nope", row(6, "much"), row(7), None, row(0, day="2014-05-14"), row(8)]
    topic = Topic({0: values, 1: []}, {0: 7, 1: 0})
    source = source_of(topic, tmp_path, poll_rows=7)
    start_us = 376_944 * HOUR_US + 6 * HOUR_US
    source = replace(source, input=replace(source.input, start_us=start_us))
    reading, places = Reading(source), source.begin({})
    batches: list[Batch] = []
    while places["rows-0"].offset < 7:
        step = reading.step(places)
        places, batches = step.reached, [*batches, *step.batches]
    assert [o for b in batches for o in b.rows["offset"]] == [3, 6]
    assert sum(b.outside for b in batches) == 1
    rejected = [one for b in batches for one in b.rejected.select("file", "row", "column", "reason").rows()]
    assert rejected == [
        ("rows/0/1", 1, "", "is not a JSON object; nope"),
        ("rows/0/2", 1, "value", "'much' is not a number"),
        ("rows/0/4", 1, "", "the message is empty (a tombstone)"),
        ("rows/0/5", 1, "timestamp", "'2014-05-14T00:30Z' is more than 1h in the future"),
    ]
    assert {b.arrived_s for b in batches} == {CAME_MS / 1000}
    assert places["rows-0"] == Position(7, start_us + 2 * HOUR_US + HOUR_US // 2)
    assert batches[0].start == 0
    assert all(b.stop == after.start for b, after in pairwise(batches))


def test_each_row_of_one_poll_has_its_own_watermark(tmp_path: Path) -> None:
    topic = Topic({0: [row(5), row(6), row(5), row(6), row(9), row(6), row(9)]}, {0: 7})
    source = source_of(topic, tmp_path, poll_rows=10**6)
    step = Reading(source).step(source.begin({}))
    (batch,) = step.batches
    newest = [None, 5, 6, 6, 6, 9, 9]
    expected = [NEVER if h is None else (376_944 + h) * HOUR_US + HOUR_US // 2 for h in newest]
    assert (batch.start, batch.stop, batch.before_us) == (0, 7, None)
    assert batch.rows[BEFORE].to_list() == expected


def test_kafka_source_refuses_an_offset_past_the_partition_end(tmp_path: Path) -> None:
    source = source_of(Topic({0: [row(5)]}, {0: 1}), tmp_path)
    assert source.begin({"rows-0": Position(1, 5)}) == {"rows-0": Position(1, 5)}
    with pytest.raises(DataError, match=r"rows/0: the broker has the offsets 0 to 1, but .* resumes from 2"):
        source.begin({"rows-0": Position(2)})


def test_a_new_partition_begins_at_the_watermark_of_other_partitions(tmp_path: Path) -> None:
    source = source_of(Topic({0: [row(5)], 1: []}, {0: 1, 1: 0}), tmp_path)
    places = source.begin({"rows-0": Position(1, 7 * HOUR_US)})
    assert places["rows-1"] == Position(0, 7 * HOUR_US)
    assert source.decisions().at("rows-1", 0, None) == 7 * HOUR_US
    # One shard has already closed its windows up to 9 h, so the watermark of the new partition is 9 h.
    places = source.begin({"rows-0": Position(1, 7 * HOUR_US, (3,), 9 * HOUR_US)})
    assert places["rows-1"] == Position(0, 9 * HOUR_US)


def test_a_new_partition_is_announced_before_its_rows(tmp_path: Path) -> None:
    topic = Topic({0: [row(5)], 1: [row(7)]}, {0: 1})
    source = source_of(topic, tmp_path, look_s=0.0, poll_rows=10**6)
    reading, places = Reading(source), source.begin({})
    while places["rows-0"].watermark_us is None:
        places = reading.step(places).reached
    topic.fill()
    step = reading.step(places)
    (announced,) = step.batches
    assert (announced.partition, announced.start, announced.stop) == ("rows-1", 0, 0)
    assert announced.watermark_us == places["rows-0"].watermark_us
    assert announced.partitions == 1
    step = reading.step(step.reached)
    assert [(b.partition, b.partitions) for b in step.batches] == [("rows-1", 2)]
    known_us = places["rows-0"].watermark_us
    assert known_us is not None
    ahead = {"rows-0": places["rows-0"]._replace(furthest_watermark_us=known_us + HOUR_US)}
    (announced,) = reading.step(ahead).batches
    assert announced.watermark_us == ahead["rows-0"].furthest_watermark_us


def read_all(reading: Reading, places: Positions) -> Positions:
    for _ in range(99):
        places = reading.step(places).reached
    return places


def row_of(series: str, hour: int) -> bytes:
    return row(hour).replace(b'"a"', f'"{series}"'.encode())


def test_each_keyed_topic_partition_belongs_to_one_shard(tmp_path: Path) -> None:
    topic = Topic({n: [row_of(f"s{n}", 5)] for n in range(4)}, dict.fromkeys(range(3), 0))
    source = source_of(topic, tmp_path, keyed_shards=2, look_s=0.0, idle_s=1e9)
    reading, places = Reading(source), source.begin({})
    topic.fill()
    batches: list[Batch] = []
    while len(places) < 4 or min(place.offset for place in places.values()) < 1:
        step = reading.step(places)
        places, batches = step.reached, [*batches, *step.batches]
    assert {b.partition: b.shard for b in batches} == {f"rows-{n}": n % 2 for n in range(4)}
    assert {b.partition: b.partitions for b in batches if b.shard == 0} == {"rows-0": 2, "rows-2": 2}
    assert {name: place.shard for name, place in source.begin(places).items()} == {
        f"rows-{n}": n % 2 for n in range(4)
    }
    with pytest.raises(ConfigError, match=r"jobs\.shards = 5, but 'rows' has 4 partitions: with kafka"):
        replace(source, keyed_shards=5).begin({})


def test_a_series_in_two_keyed_shards_is_refused(
    tmp_path: Path,
) -> None:
    topic = Topic({0: [row_of("s", 5)], 1: [], 2: [row_of("s", 6)], 3: [row_of("t", 6), row_of("s", 7)]})
    topic.fill()
    source = source_of(topic, tmp_path, keyed_shards=2, poll_rows=10**6)
    known = replace(source, read_series_shards=lambda folder: {"t": 0})
    for one, series in ((source, "s"), (known, "t")):
        reading, places = Reading(one), one.begin({})
        topic.chance = np.random.default_rng(0)
        with pytest.raises(DataError, match=rf"rows/3: the series '{series}' has rows here, .* of shard 0: "):
            read_all(reading, places)


def test_idle_keyed_partitions_take_watermarks_from_their_own_shard(tmp_path: Path) -> None:
    hours = {0: 9, 1: 6}  # partitions 0 and 1 have rows up to these hours; the other partitions are idle
    topic = Topic(
        {n: [row_of(f"s{n}", hours.get(n, 5)), row_of(f"s{n}", 9)] for n in range(4)},
        dict.fromkeys(range(4), 1),
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
            reading.idle.silences[f"rows-{number}"].since_s = clock.now_s
        places = reading.step(places).reached
        found = {n: places[f"rows-{n}"].watermark_us for n in (2, 3)}
        assert found == {n: (376_944 + h) * HOUR_US + HOUR_US // 2 for n, h in expected[shards].items()}


def test_an_absent_broker_does_not_make_partitions_idle(tmp_path: Path) -> None:
    topic, clock = Topic({0: [row(5), row(9)], 1: []}, {0: 1, 1: 0}), Clock(0.0)
    source = source_of(topic, tmp_path, poll_rows=10**6)
    reading, places = Reading(source, clock), source.begin({})
    for _ in range(50):
        places = reading.step(places).reached
    consumer: Any = reading.consumer
    for away, carried in ((True, None), (False, 5 * HOUR_US + HOUR_US // 2 + 376_944 * HOUR_US)):
        consumer.troubles += away
        clock.now_s += 31
        places = reading.step(places).reached
        assert places["rows-1"].watermark_us == carried


def test_consecutive_calls_of_step_share_one_consumer(tmp_path: Path) -> None:
    opened = []
    topic = Topic({0: [row(5)]}, {0: 1})

    def opens(broker: Broker, name: str, group: str) -> object:
        opened.append(topic(broker, name, group))
        return opened[-1]

    source = source_of(topic, tmp_path, opens=opens)
    places = source.begin({})
    for _ in range(3):
        places = source.step(places).reached
    assert len(opened) == 2
    assert [one.closed for one in opened] == [True, False]
    close_opened()
    assert opened[1].closed


def test_a_torn_last_line_of_the_kafka_journal_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "kafka.jsonl"
    made = Decisions(path)
    for offset, us in ((3, 10), (3, 20), (7, 15), (9, 40)):
        made.raise_watermark("a", offset, us)
    with path.open("a") as file:
        file.write('{"partition": "a", "off')
    for again in (made, Decisions(path), Decisions(path)):
        assert again.before("a")(np.arange(11)).tolist() == [NEVER] * 3 + [20] * 6 + [40] * 2
        assert again.at("a", 4, 30) == 30
        assert again.at("a", 4, None) == 20
        assert again.at("b", 4, None) is None
    assert path.read_text().endswith("}\n")
    made.raise_watermark("b", 0, 1)
    assert Decisions(path).at("b", 0, None) == 1
    path.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"kafka\.jsonl: cannot be read"):
        Decisions(path)


def test_a_kafka_journal_without_checksums_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "kafka.jsonl").write_text('{"partition": "a", "offset": 3, "watermark_us": 10}\n')
    assert Decisions(tmp_path / "kafka.jsonl").at("a", 3, None) == 10


def test_the_kafka_journal_of_a_long_run_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "LONGEST", 100)
    path, reached = tmp_path / "kafka.jsonl", {"a": 0}
    made, longest = Decisions(path, lambda: reached), 0
    made.keep_schema(7, "{}")
    for offset in range(400):  # each raise of the watermark adds a decision to the journal
        made.raise_watermark("a", offset, offset)
        if offset % 10 == 0:
            made.keep_clocks({"a": ClockDecision(offset, offset + 1, offset)})
            made.refuse({"a": [Refused(offset, offset + 1, "why")]})
            longest = max(longest, len(path.read_text().splitlines()))
        reached["a"] = max(offset - 5, 0)
    assert longest <= 103
    for one in (made, Decisions(path)):
        offsets = np.array([reached["a"], 400])
        assert one.before("a")(offsets).tolist() == [reached["a"], 399]
        assert one.clock_us("a", offsets).tolist() == [390, 390]
        assert one.schema(7) == "{}"


def test_without_a_snapshot_the_kafka_journal_keeps_all_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "LONGEST", 100)
    # Without a snapshot, a resumed stream reads again from the first offset and needs all decisions.
    made = Decisions(tmp_path / "kafka.jsonl")
    for offset in range(250):
        made.raise_watermark("a", offset, offset)
    for one in (made, Decisions(tmp_path / "kafka.jsonl")):
        assert one.before("a")(np.arange(250)).tolist() == [*range(250)]


NOW_US = 1_700_000_000_000_000


def in_2199(series: str = "b") -> bytes:
    return json.dumps({"series_id": series, "timestamp": "2199-01-01", "value": 1.0}).encode()


def read_to_end(reading: Reading, places: Positions, ends: dict[str, int]) -> list[Batch]:
    batches: list[Batch] = []
    while any(places[name].offset < end for name, end in ends.items()):
        step = reading.step(places)
        places, batches = step.reached, [*batches, *step.batches]
    return batches


def test_future_rows_are_quarantined_despite_a_future_arrival_time(tmp_path: Path) -> None:
    topic = Topic({0: [row(5), in_2199(), row(6)]}, {0: 3})
    # The broker gives the second message an arrival time in the year 2199, and the third no arrival time.
    topic.came_ms[0] = [CAME_MS, 7_226_582_400_000, -1]
    source = source_of(topic, tmp_path, poll_rows=10**6)
    batches = read_to_end(Reading(source), source.begin({}), {"rows-0": 3})
    assert [offset for batch in batches for offset in batch.rows["offset"]] == [0, 2]
    assert [reason for batch in batches for reason in batch.rejected["reason"]] == [
        "'2199-01-01' is more than 1h in the future"
    ]
    assert max(batch.watermark_us or 0 for batch in batches) == (376_944 + 6) * HOUR_US + HOUR_US // 2
    later = replace(source, wall=lambda: 7.3e9)  # read the topic again with a clock in 2201
    again = read_to_end(Reading(later), later.begin({}), {"rows-0": 3})
    assert [offset for batch in again for offset in batch.rows["offset"]] == [0, 2]


@settings(max_examples=30)
@given(data=st.data())
def test_reading_a_topic_again_rejects_the_same_future_rows(data: st.DataObject) -> None:
    near = st.integers(-4, 4).map(lambda hours: NOW_US + hours * HOUR_US)
    count = data.draw(st.integers(1, 12))
    times = [data.draw(near | st.just(7_226_582_400_000_000)) for _ in range(2 * count)]
    arrivals_us = [data.draw(near | st.sampled_from([-1000, 0, 2**62, 7_226_582_400_000_000])) for _ in times]
    values = [json.dumps({"series_id": "a", "timestamp": us, "value": 1}).encode() for us in times]
    parts: dict[int, list[bytes | None]] = {0: [*values[:count]], 1: [*values[count:]]}
    with tempfile.TemporaryDirectory() as name:
        found: list[dict[tuple[str, int], bool]] = []
        for reading_number in range(3):
            topic = Topic(parts, chance=np.random.default_rng(data.draw(st.integers(0, 99))))
            topic.fill()
            topic.came_ms = {
                0: [us // 1000 for us in arrivals_us[:count]],
                1: [us // 1000 for us in arrivals_us[count:]],
            }
            walls = iter(data.draw(st.lists(near, min_size=1, max_size=40)) * 400)
            source = source_of(topic, Path(name), poll_rows=data.draw(st.integers(1, 9)), idle_s=1e9)
            source = replace(source, wall=partial(_next_s, walls))
            starts = {
                f"rows-{n}": Position(data.draw(st.integers(0, count)) if reading_number else 0)
                for n in parts
            }
            batches = read_to_end(Reading(source), starts, {f"rows-{n}": count for n in parts})
            good = {(b.partition, o): True for b in batches for o in b.rows["offset"]}
            found.append(good | {(b.partition, o): False for b in batches for o in b.rejected["offset"]})
    assert len(found[0]) == 2 * count
    for again in found[1:]:
        assert again == {key: found[0][key] for key in again}


def test_messages_stay_rejected_although_their_schema_becomes_known(tmp_path: Path) -> None:
    answers: dict[str, tuple[int, Any]] = {"GET /schemas/ids/7": KNOWN, "GET /schemas/ids/8": (404, {})}
    topic = Topic({0: [record(8), record(8), record(7), record(8)]}, {0: 4})
    with registry_of(lambda request: answers[request]) as registry:
        spec = DecoderSpec("avro", registry=registry.url)
        source = source_of(topic, tmp_path, decoder=spec, poll_rows=2)
        first = read_to_end(Reading(source), source.begin({}), {"rows-0": 4})
        answers["GET /schemas/ids/8"] = KNOWN  # the registry now has the schema
        second = read_to_end(Reading(source), source.begin({}), {"rows-0": 4})
        # The second reading must request no schema: the journal holds schema 7, and the offsets of the
        # messages that the first reading rejected because schema 8 was unknown.
        assert registry.requests == ["GET /schemas/ids/8", "GET /schemas/ids/7"]
    away = replace(source, decoder=replace(spec, registry="http://127.0.0.1:9"))
    third = read_to_end(Reading(away), away.begin({}), {"rows-0": 4})
    for batches in (first, second, third):
        assert [offset for batch in batches for offset in batch.rows["offset"]] == [2]
        assert [offset for batch in batches for offset in batch.rejected["offset"]] == [0, 1, 3]
        assert {kind for batch in batches for kind in batch.rejected["kind"]} == {"schema is unknown"}


def test_an_unavailable_schema_registry_delays_but_loses_no_messages(tmp_path: Path) -> None:
    answers: list[tuple[int, Any]] = [(503, {}), (503, {}), KNOWN]
    topic = Topic({0: [record(7), record(7)]}, {0: 2})
    with registry_of(lambda request: answers.pop(0)) as registry:
        source = source_of(topic, tmp_path, decoder=DecoderSpec("avro", registry=registry.url))
        reading, places = Reading(source), source.begin({})
        waits = 0
        batches: list[Batch] = []
        while places["rows-0"].offset < 2:
            step = reading.step(places)
            places, batches = step.reached, [*batches, *step.batches]
            waits += step.wait_s > 0
    assert waits
    assert [offset for batch in batches for offset in batch.rows["offset"]] == [0, 1]
    assert not any(len(batch.rejected) for batch in batches)


def test_kafka_options_override_defaults_and_repr_hides_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker("b:9092", (("linger.ms", "9"), ("sasl.password", "$KAFKA_TEST_PASSWORD")))
    with pytest.raises(ConfigError, match=r"kafka\.options\.sasl\.password = \$KAFKA_TEST_PASSWORD"):
        broker.settings(print)
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", "hush")
    settings = broker.settings(print, linger_ms=5, group_id="g")
    assert settings["linger.ms"] == "9"
    assert (settings["group.id"], settings["sasl.password"]) == ("g", "hush")
    assert "hush" not in repr(broker)
    assert "PASSWORD" not in repr(broker)


def _next_s(walls: Iterator[int]) -> float:
    return next(walls) / 1e6
