from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards.counts import Counts
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import (
    FOLDER,
    RECENT,
    JobNumbers,
    JobReader,
    ShardNumbers,
    applied,
    clear,
    publish,
    read_shards,
)
from schemas.quarantine import KINDS

latencies = st.lists(st.floats(0, 500_000), max_size=60)


def histogram(values: list[float]) -> Histogram:
    return reduce(Histogram.add, values, Histogram())


def shard(number: int = 0, **changes: object) -> ShardNumbers:
    plain = ShardNumbers(number, Counts(), None, None, {}, 0, 0, 0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def after(before: ShardNumbers, closed_us: int, ms: float) -> ShardNumbers:
    """A shard that has closed one more window, as its worker publishes it."""
    recent = (*before.recent, (closed_us, ms))[-RECENT:]
    return replace(before, closed_us=closed_us, latency=before.latency.add(ms), recent=recent)


counts = st.builds(
    Counts,
    rows_in=st.integers(0, 1000),
    used=st.integers(0, 1000),
    late=st.integers(0, 1000),
    windows=st.integers(0, 1000),
    quarantined=st.dictionaries(st.sampled_from(KINDS), st.integers(1, 9)),
)
shards = st.builds(
    ShardNumbers,
    shard=st.integers(0, 7),
    counts=counts,
    closed_us=st.none() | st.integers(0, 2**60),
    watermark_us=st.none() | st.integers(0, 2**60),
    offsets=st.dictionaries(st.sampled_from(["replay", "a/b", "é"]), st.integers(0, 2**60)),
    series=st.integers(0, 10**6),
    live=st.integers(0, 10**6),
    state_bytes=st.integers(0, 2**40),
    latency=latencies.map(histogram),
    snapshot_at_s=st.floats(0, 2e9),
    snapshot_ms=st.floats(0, 1e6),
    recent=st.lists(st.tuples(st.integers(0, 2**60), st.floats(0, 1e6)), max_size=RECENT).map(tuple),
)


@given(shards)
def test_what_is_read_is_what_was_published(
    tmp_path_factory: pytest.TempPathFactory, told: ShardNumbers
) -> None:
    folder = tmp_path_factory.mktemp("out")
    publish(folder, told)
    assert read_shards(folder) == [told]


@given(st.lists(shards, max_size=4, unique_by=lambda s: s.shard))
def test_the_numbers_of_a_job_are_those_of_its_shards_added_up(told: list[ShardNumbers]) -> None:
    job = JobNumbers.of(told)
    for place in ("rows_in", "used", "late", "rejected"):
        assert getattr(job.counts, place) == sum(getattr(s.counts, place) for s in told)
    for place in ("series", "live", "state_bytes"):
        assert getattr(job, place) == sum(getattr(s, place) for s in told)
    assert job.latency.count == sum(s.latency.count for s in told)
    watermarks = [s.watermark_us for s in told if s.watermark_us is not None]
    assert job.watermark_us == min(watermarks, default=None)
    assert sum(job.counts.quarantined.values()) == job.counts.rejected
    json.dumps(job.as_json(1e9), allow_nan=False)


windows = st.lists(st.lists(st.floats(1, 1000), min_size=3, max_size=3), min_size=1, max_size=30)


@given(windows, st.randoms(use_true_random=False))
def test_a_window_is_done_when_its_slowest_shard_is_however_shards_are_read(
    tmp_path_factory: pytest.TempPathFactory, ms: list[list[float]], chance: object
) -> None:
    folder = tmp_path_factory.mktemp("out")
    reader, told, next_of = JobReader(folder, 3), [shard(n) for n in range(3)], [0, 0, 0]
    for number in range(3):
        publish(folder, told[number])
    while any(at < len(ms) for at in next_of):
        number = chance.choice([n for n in range(3) if next_of[n] < len(ms)])  # type: ignore[attr-defined]
        at = next_of[number]
        told[number] = after(told[number], at, ms[at][number])
        next_of[number] += 1
        publish(folder, told[number])
        if chance.random() < 0.5:  # type: ignore[attr-defined]
            assert reader.read().whole.count == min(next_of)
    whole = reader.read().whole
    assert whole.buckets == histogram([max(of_shards) for of_shards in ms]).buckets


def test_a_shard_that_issues_nothing_keeps_no_window_open(tmp_path: Path) -> None:
    publish(tmp_path, after(shard(0), 5, 80.0))
    publish(tmp_path, shard(1, closed_us=4))
    reader = JobReader(tmp_path, 2)
    assert reader.read().whole.count == 0
    publish(tmp_path, shard(1, closed_us=5))
    assert reader.read().whole.count == 1


def test_no_window_is_whole_before_every_shard_has_been_heard_of(tmp_path: Path) -> None:
    reader = JobReader(tmp_path, 2)
    publish(tmp_path, after(shard(0), 5, 80.0))
    assert reader.read().whole.count == 0
    publish(tmp_path, after(shard(1), 5, 300.0))
    assert reader.read().whole.buckets == histogram([300.0]).buckets


def test_a_window_of_which_a_shard_was_not_heard_in_time_is_left_out(tmp_path: Path) -> None:
    reader, slow, fast = JobReader(tmp_path, 2), shard(0), shard(1)
    for at in range(3 * RECENT):
        slow = after(slow, at, 500.0)
        if at % 50 == 49:  # every closing is read
            publish(tmp_path, slow)
            reader.read()
    for at in range(3 * RECENT):  # read once: all but the last are gone
        fast = after(fast, at, 1.0)
    publish(tmp_path, slow)
    publish(tmp_path, fast)
    assert reader.read().whole.buckets == histogram([500.0] * RECENT).buckets
    other_way = JobReader(tmp_path, 2)
    assert other_way.read().whole.buckets == histogram([500.0] * RECENT).buckets


def test_a_shard_that_begins_anew_is_counted_on(tmp_path: Path) -> None:
    reader, told = JobReader(tmp_path, 1), shard()
    for at in range(3):
        told = after(told, at, 10.0)
    publish(tmp_path, told)
    assert reader.read().whole.count == 3
    publish(tmp_path, after(shard(), 3, 10.0))
    assert reader.read().whole.count == 4


def test_what_a_shard_publishes_and_a_job_keeps_is_bounded(tmp_path: Path) -> None:
    reader, told, sizes = JobReader(tmp_path, 2), shard(0, offsets={"replay": 10**9}), []
    publish(tmp_path, shard(1))  # closes nothing, so that every window waits for it
    for at in range(10_000):
        told = after(told, 10**15 + at, 1.01 ** (at % 1200))
        if not at % 50:
            publish(tmp_path, told)
            reader.read()
            sizes.append((tmp_path / FOLDER / "shard-0000.json").stat().st_size)
    assert max(sizes) < 8000
    assert len(reader._open) <= 4096
    assert reader.read().whole.count == 0


@pytest.mark.parametrize(
    "half", ["", "{", '{"shard": 1', "[]", "{}", '{"shard": 1, "of": "another version"}']
)
def test_a_file_that_is_half_there_or_of_another_version_is_left_out(tmp_path: Path, half: str) -> None:
    publish(tmp_path, shard(0, series=3))
    (tmp_path / FOLDER / "shard-0001.json").write_text(half)
    assert JobNumbers.of(read_shards(tmp_path)).series == 3


def test_a_folder_in_which_nothing_was_published_has_numbers_that_are_none(tmp_path: Path) -> None:
    assert JobNumbers.of(read_shards(tmp_path / "nowhere")) == JobNumbers()
    assert JobNumbers().watermark_lag_s(1e9) is None


def test_publishing_into_a_folder_that_is_gone_makes_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "gone", shard())
    assert not list(tmp_path.iterdir())


def test_a_job_begins_without_the_numbers_of_the_one_before(tmp_path: Path) -> None:
    publish(tmp_path, shard(0, series=3))
    clear(tmp_path)
    clear(tmp_path)
    assert JobNumbers.of(read_shards(tmp_path)) == JobNumbers()


def test_all_shards_that_follow_a_partition_must_have_come_so_far(tmp_path: Path) -> None:
    publish(tmp_path, shard(0, offsets={"a": 7, "b": 2}))
    assert applied(tmp_path, 2) == {}
    publish(tmp_path, shard(1, offsets={"a": 5}))
    assert applied(tmp_path, 2) == {"a": 5, "b": 2}


def test_the_watermark_lags_behind_the_clock_and_the_oldest_snapshot_is_told(tmp_path: Path) -> None:
    told = [
        shard(0, watermark_us=90_000_000, snapshot_at_s=50.0, snapshot_ms=3.0),
        shard(1, watermark_us=95_000_000, snapshot_at_s=60.0, snapshot_ms=2.0),
    ]
    found = JobNumbers.of(told).as_json(100.0)
    assert (found["watermark_lag_s"], found["snapshot_age_s"], found["snapshot_ms"]) == (10.0, 50.0, 3.0)
    assert JobNumbers.of([*told, shard(2)]).as_json(100.0)["snapshot_age_s"] is None
