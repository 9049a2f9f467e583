"""Law: the outputs of a job depend only on the topic and on the recorded decisions about idle partitions.

So the outputs do not depend on how many messages a poll returns, on kills, on clocks, on the times at which
partitions appear, or on the order in which an engine delivers batches.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.time.windows import Windows
from pipelines.sources.base import Position
from pipelines.sources.kafka.reading import Reading
from tests.comparisons import YOUNG, Floats, Key, assert_same, by_key, sorted_rows
from tests.disks import Disk
from tests.fleets import HALF_A_DAY_US, SHORT_WEEK, START, forecaster, rows_of, scales
from tests.folds import Ran
from tests.laws.topic_jobs import (
    SHARDS,
    Clock,
    apply_all,
    places_to_resume,
    read,
    resume,
    run_with_kills,
    run_without_kills,
    source_of,
)
from tests.partitions import interleaved
from tests.topics import Topic, values_of


@st.composite
def topics(draw: st.DrawFn, keyed: bool) -> tuple[Topic, dict[str, float], int]:
    """Generate a topic, the scale of each series (see `tests.fleets.scales`), and the first window.

    The topic has four partitions of uneven length, with late rows and invalid messages. With ``keyed``, each
    series has one partition, and every shard has at least one partition from the start.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = 1e3 + rng.normal(size=(18, 5)).cumsum(axis=0)
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.2]))] = np.nan
    fleet = Windows(tuple(f"s{number}" for number in range(5)), START // 12, values)
    rows = rows_of(fleet, HALF_A_DAY_US)
    delay_us = draw(st.integers(0, 4)) * HALF_A_DAY_US
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    rows = rows[np.argsort(event_us + rng.integers(0, delay_us + 1, len(rows)), kind="stable")]
    share = draw(st.sampled_from([[0.4, 0.3, 0.2, 0.1], [0.6, 0.3, 0.1, 0.0]]))
    home = pl.Series(rng.choice(4, len(rows), p=share))
    if keyed:
        home = rows["series_id"].replace_strict({f"s{n}": n % 4 for n in range(5)})
    partitions = {}
    for number in range(4):
        messages = values_of(rows.filter(home == number))
        for at in sorted(rng.integers(0, len(messages) + 1, int(rng.integers(0, 3)))):
            messages.insert(int(at), rng.choice(np.array([b"nope", b'{"value": 5}'], object)))
        partitions[number] = messages
    # These partitions exist from the start; the other partitions appear while the topic is read.
    there = dict.fromkeys(range(draw(st.integers(SHARDS if keyed else 1, 4))), 0)
    return Topic(partitions, there, rng), scales(fleet), fleet.start


def forecast_scales(forecasts: dict[Key, Floats], scale: dict[str, float]) -> dict[str, float]:
    """Return for each series the larger of its scale and the range of its forecasts.

    The range can be larger, because the scale is computed from all rows, but the forecasts are of sums
    without the late rows.
    """
    found = dict(scale)
    for name in {series for series, _ in forecasts}:
        values = np.stack([one for (series, _), one in forecasts.items() if series == name])
        found[name] = max(scale[name], float(np.ptp(values)))
    return found


@pytest.mark.parametrize("keyed", [False, True])
# Hypothesis must not shrink a failing topic: that takes minutes, and a smaller seed makes no simpler topic.
@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(kills=st.integers(0, 3), lateness=st.integers(0, 2), data=st.data())
def test_kills_and_poll_sizes_do_not_change_the_outputs(
    keyed: bool, kills: int, lateness: int, data: st.DataObject
) -> None:
    topic, scale, start = data.draw(topics(keyed))
    model = forecaster(aggregate="sum", allowed_lateness=f"{12 * lateness}h", **SHORT_WEEK)
    with tempfile.TemporaryDirectory() as name:
        poll_rows = data.draw(st.integers(2, 30))
        source = source_of(topic, start, Path(name), lateness, poll_rows=poll_rows, idle_s=30)
        source = replace(source, keyed_shards=SHARDS if keyed else None)
        killed = run_with_kills(model, source, topic, kills, data.draw)
        clean = run_without_kills(model, replace(source, poll_rows=10**6, keyed_shards=None), topic)
    assert_same_ran(killed, clean, topic, scale, keyed)


def assert_same_ran(killed: Ran, clean: Ran, topic: Topic, scale: dict[str, float], keyed: bool) -> None:
    closed = [shard.closed_through for shard in clean.shards]
    found = by_key(killed.forecasts)
    # If the topic is keyed, a shard of the killed run waits only for its own partitions. So it may close more
    # windows than the clean run, in which each shard waits for all partitions.
    if keyed:
        found = {key: one for key, one in found.items() if key[1] <= (closed[0] or 0)}
    assert killed.counts.rows_in == clean.counts.rows_in
    assert killed.counts == clean.counts or keyed
    assert killed.counts.missing == clean.counts.missing == 0
    messages = sum(len(values) for values in topic.partitions.values())
    assert clean.counts.rows_in + clean.counts.outside == messages
    forecasts = by_key(clean.forecasts)
    assert_same(forecasts, found, forecast_scales(forecasts, scale), within=YOUNG)
    assert sorted_rows(killed.late).equals(sorted_rows(clean.late))
    assert sorted_rows(killed.quarantined).equals(sorted_rows(clean.quarantined))


@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(lateness=st.integers(0, 2), data=st.data())
def test_partitions_that_appear_after_kills_do_not_change_outputs(lateness: int, data: st.DataObject) -> None:
    topic, scale, start = data.draw(topics(keyed=False))
    topic.there = {0: 0}
    model = forecaster(aggregate="sum", allowed_lateness=f"{12 * lateness}h", **SHORT_WEEK)
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, start, Path(name), lateness, poll_rows=5, idle_s=30)
        killed = run_with_kills(model, source, topic, 3, data.draw, grows_between=True)
        clean = run_without_kills(model, replace(source, poll_rows=10**6), topic)
    assert_same_ran(killed, clean, topic, scale, keyed=False)


@pytest.mark.parametrize("keyed", [False, True])
@settings(max_examples=4, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(data=st.data())
def test_batch_order_changes_no_output_if_partitions_appear(keyed: bool, data: st.DataObject) -> None:
    topic, scale, start = data.draw(topics(keyed))
    topic.there = dict.fromkeys(range(SHARDS if keyed else 1), 0)
    model = forecaster(aggregate="sum", **SHORT_WEEK)
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, start, Path(name), 2, poll_rows=5, idle_s=30, look_s=0)
        source = replace(source, keyed_shards=SHARDS if keyed else None)
        shards, places = resume(model, source, places_to_resume(source, []), [Disk() for _ in range(SHARDS)])
        batches = [*read(source, places, Clock(), most_messages=2, partition_probability=0.3)]
    parts = [
        [b for b in batches if b.partition == one] for one in dict.fromkeys(b.partition for b in batches)
    ]
    # Compare three orders of the batches: as they were read, the partitions interleaved at random, and one
    # partition after the other. Each keeps the order of the batches within a partition.
    orders = [batches, interleaved(data.draw, parts), [batch for part in parts for batch in part]]
    ran = [Ran([shard.copy() for shard in shards]) for _ in orders]
    for one, order in zip(ran, orders, strict=True):
        for number in range(SHARDS):
            apply_all(model, one, number, order)
    forecasts = by_key(ran[0].forecasts)
    for other in ran[1:]:
        assert not any(shard.early for shard in other.shards)
        assert other.counts == ran[0].counts
        assert_same(forecasts, by_key(other.forecasts), forecast_scales(forecasts, scale), within=YOUNG)
        assert sorted_rows(other.late).equals(sorted_rows(ran[0].late))
        assert sorted_rows(other.quarantined).equals(sorted_rows(ran[0].quarantined))


def test_a_row_behind_the_watermark_of_an_idle_partition_is_late() -> None:
    model, start = forecaster(**SHORT_WEEK), START // 12
    rows = pl.DataFrame(
        {
            "series_id": ["a"] * 9,
            "timestamp": [(start + 5 + w) * HALF_A_DAY_US for w in range(9)],
            "value": [1.0] * 9,
        }
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    busy, idle = values_of(rows), values_of(rows.with_columns(series_id=pl.lit("b")))[:2]
    topic, clock = Topic({0: busy, 1: idle}, {0: 5, 1: 1}), Clock()
    with tempfile.TemporaryDirectory() as name:
        source = source_of(topic, start, Path(name), 0, idle_s=30)
        reading, places = Reading(source, clock), places_to_resume(source, [])
        for _ in range(99):
            places = reading.step(places).reached
        assert places["rows-1"].watermark_us == (start + 5) * HALF_A_DAY_US
        clock.now_s += 31
        topic.there[0] = 6  # partition 0 has an unread message, so it is not idle
        batches: list[Batch] = []
        for _ in range(9):
            step = reading.step(places)
            places, batches = step.reached, [*batches, *step.batches]
        assert [(b.partition, b.start, b.stop) for b in batches] == [("rows-0", 5, 6), ("rows-1", 1, 1)]
        assert {b.watermark_us for b in batches} == {(start + 10) * HALF_A_DAY_US}
        assert places["rows-1"] == Position(1, (start + 10) * HALF_A_DAY_US)

        topic.fill()
        ran = run_without_kills(model, source, topic)
    assert sorted_rows(ran.late).select("series_id", "partition", "offset").rows() == [("b", "rows-1", 1)]
