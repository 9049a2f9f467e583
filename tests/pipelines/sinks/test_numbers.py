"""Tests of the counts and latencies that each shard of a job publishes, and of the totals of the job."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.drift import InputDrift
from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import ScoreSums
from pipelines.sinks.job_reader import JobReader
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import (
    RECENT,
    JobNumbers,
    ShardNumbers,
    applied,
    clear,
    publish,
    read_shards,
)
from pipelines.storage import markers
from schemas.quarantine import KINDS

LATENCIES = st.lists(st.floats(0, 500_000), max_size=60)


def histogram(values: list[float]) -> Histogram:
    return reduce(Histogram.add, values, Histogram())


def shard_numbers(number: int = 0, **changes: object) -> ShardNumbers:
    plain = ShardNumbers(number, Counts(), None, None, {}, 0, 0, 0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def after_window(before: ShardNumbers, closed_us: int, ms: float) -> ShardNumbers:
    """Return the numbers of a shard after it has closed one more window, with a latency of ``ms``."""
    recent = (*before.recent, (closed_us, ms))[-RECENT:]
    return replace(before, closed_us=closed_us, latency=before.latency.add(ms), recent=recent)


SUMS = st.builds(ScoreSums, st.integers(0, 99), st.integers(0, 10**18), st.integers(-(10**18), 10**18))
SCORES = st.dictionaries(st.sampled_from(["lstm-1", "gru-2"]), st.dictionaries(st.integers(1, 99), SUMS))
DRIFT = st.builds(
    InputDrift,
    observed=st.lists(st.integers(0, 10**9), min_size=10, max_size=10),
    expected=st.lists(st.floats(0.001, 1e9), min_size=10, max_size=10),
    worst_series=st.none() | st.text(),
    worst_index=st.floats(0, 9),
)
COUNTS = st.builds(
    Counts,
    rows_in=st.integers(0, 1000),
    used=st.integers(0, 1000),
    late=st.integers(0, 1000),
    windows=st.integers(0, 1000),
    quarantined=st.dictionaries(st.sampled_from(KINDS), st.integers(1, 9)),
    scores=SCORES,
)
SHARDS = st.builds(
    ShardNumbers,
    shard=st.integers(0, 7),
    counts=COUNTS,
    closed_us=st.none() | st.integers(0, 2**60),
    watermark_us=st.none() | st.integers(0, 2**60),
    offsets=st.dictionaries(st.sampled_from(["replay", "a/b", "é"]), st.integers(0, 2**60)),
    series=st.integers(0, 10**6),
    live=st.integers(0, 10**6),
    state_bytes=st.integers(0, 2**40),
    latency=LATENCIES.map(histogram),
    snapshot_at_s=st.floats(0, 2e9),
    snapshot_ms=st.floats(0, 1e6),
    drift=st.dictionaries(st.sampled_from(["value", "heat"]), DRIFT),
    recent=st.lists(st.tuples(st.integers(0, 2**60), st.floats(0, 1e6)), max_size=RECENT).map(tuple),
)


@given(SHARDS)
def test_read_shards_returns_the_published_counts_unchanged(
    tmp_path_factory: pytest.TempPathFactory, published: ShardNumbers
) -> None:
    folder = tmp_path_factory.mktemp("out")
    publish(folder, published)
    found = read_shards(folder)
    assert found == [published]
    assert found[0].counts.scores == published.counts.scores


@given(st.lists(SHARDS, max_size=4, unique_by=lambda s: s.shard))
def test_counts_of_a_job_are_sums_over_its_shards(published: list[ShardNumbers]) -> None:
    job = JobNumbers.of(published)
    for place in ("rows_in", "used", "late", "rejected"):
        assert getattr(job.counts, place) == sum(getattr(s.counts, place) for s in published)
    for place in ("series", "live", "state_bytes"):
        assert getattr(job, place) == sum(getattr(s, place) for s in published)
    assert job.latency.count == sum(s.latency.count for s in published)
    watermarks = [s.watermark_us for s in published if s.watermark_us is not None]
    assert job.watermark_us == min(watermarks, default=None)
    assert sum(job.counts.quarantined.values()) == job.counts.rejected
    json.dumps(job.as_json(1e9), allow_nan=False)


WINDOWS = st.lists(st.lists(st.floats(1, 1000), min_size=3, max_size=3), min_size=1, max_size=30)


@given(WINDOWS, st.randoms(use_true_random=False))
def test_window_latency_is_the_latency_of_the_slowest_shard(
    tmp_path_factory: pytest.TempPathFactory, ms: list[list[float]], chance: object
) -> None:
    folder = tmp_path_factory.mktemp("out")
    reader, published, next_of = JobReader(folder, 3), [shard_numbers(n) for n in range(3)], [0, 0, 0]
    for number in range(3):
        publish(folder, published[number])
    while any(at < len(ms) for at in next_of):
        number = chance.choice([n for n in range(3) if next_of[n] < len(ms)])  # type: ignore[attr-defined]
        at = next_of[number]
        published[number] = after_window(published[number], at, ms[at][number])
        next_of[number] += 1
        publish(folder, published[number])
        if chance.random() < 0.5:  # type: ignore[attr-defined]
            assert reader.read().window_latency.count == min(next_of)
    whole = reader.read().window_latency
    assert whole.buckets == histogram([max(of_shards) for of_shards in ms]).buckets


def test_window_latency_counts_windows_that_all_shards_closed(tmp_path: Path) -> None:
    publish(tmp_path, after_window(shard_numbers(0), 5, 80.0))
    publish(tmp_path, shard_numbers(1, closed_us=4))
    reader = JobReader(tmp_path, 2)
    assert reader.read().window_latency.count == 0
    publish(tmp_path, shard_numbers(1, closed_us=5))
    assert reader.read().window_latency.count == 1


def test_window_latency_is_counted_after_all_shards_have_published(tmp_path: Path) -> None:
    reader = JobReader(tmp_path, 2)
    publish(tmp_path, after_window(shard_numbers(0), 5, 80.0))
    assert reader.read().window_latency.count == 0
    publish(tmp_path, after_window(shard_numbers(1), 5, 300.0))
    assert reader.read().window_latency.buckets == histogram([300.0]).buckets


def test_the_histogram_omits_windows_with_latencies_overwritten_before_reading(tmp_path: Path) -> None:
    reader, slow, fast = JobReader(tmp_path, 2), shard_numbers(0), shard_numbers(1)
    for at in range(3 * RECENT):
        slow = after_window(slow, at, 500.0)
        # Publish the slow shard's latencies often: the reader gets all of them before they are overwritten.
        if at % 50 == 49:
            publish(tmp_path, slow)
            reader.read()
    # Publish the fast shard's latencies only once, after the last window: the file then holds only the
    # last RECENT latencies, and the reader never gets the earlier ones.
    for at in range(3 * RECENT):
        fast = after_window(fast, at, 1.0)
    publish(tmp_path, slow)
    publish(tmp_path, fast)
    assert reader.read().window_latency.buckets == histogram([500.0] * RECENT).buckets
    other_way = JobReader(tmp_path, 2)
    assert other_way.read().window_latency.buckets == histogram([500.0] * RECENT).buckets


def test_the_count_of_windows_continues_after_a_shard_restarts(tmp_path: Path) -> None:
    reader, published = JobReader(tmp_path, 1), shard_numbers()
    for at in range(3):
        published = after_window(published, at, 10.0)
    publish(tmp_path, published)
    assert reader.read().window_latency.count == 3
    publish(tmp_path, after_window(shard_numbers(), 3, 10.0))
    assert reader.read().window_latency.count == 4


def test_files_of_published_counts_stay_small_in_long_runs(tmp_path: Path) -> None:
    reader, published, sizes = JobReader(tmp_path, 2), shard_numbers(0, offsets={"replay": 10**9}), []
    publish(tmp_path, shard_numbers(1))  # shard 1 closes no window, so no window is complete
    for at in range(10_000):
        published = after_window(published, 10**15 + at, 1.01 ** (at % 1200))
        if not at % 50:
            publish(tmp_path, published)
            reader.read()
            sizes.append((tmp_path / markers.NUMBERS / "shard-0000.json").stat().st_size)
    assert max(sizes) < 8000
    assert len(reader._longest_ms) <= 4096
    assert reader.read().window_latency.count == 0


@pytest.mark.parametrize(
    "content", ["", "{", '{"shard": 1', "[]", "{}", '{"shard": 1, "of": "another version"}']
)
def test_an_unreadable_file_of_published_counts_is_ignored(tmp_path: Path, content: str) -> None:
    publish(tmp_path, shard_numbers(0, series=3))
    (tmp_path / markers.NUMBERS / "shard-0001.json").write_text(content)
    assert JobNumbers.of(read_shards(tmp_path)).series == 3


def test_counts_read_from_a_folder_without_published_counts_are_0(tmp_path: Path) -> None:
    assert JobNumbers.of(read_shards(tmp_path / "nowhere")) == JobNumbers()
    assert JobNumbers().watermark_lag_s(1e9) is None


def test_publish_creates_nothing_in_a_missing_folder(tmp_path: Path) -> None:
    publish(tmp_path / "gone", shard_numbers())
    assert not list(tmp_path.iterdir())


def test_clear_deletes_the_published_counts_of_an_earlier_job(tmp_path: Path) -> None:
    publish(tmp_path, shard_numbers(0, series=3))
    clear(tmp_path)
    clear(tmp_path)
    assert JobNumbers.of(read_shards(tmp_path)) == JobNumbers()


def test_applied_returns_each_partitions_smallest_offset_over_all_shards(tmp_path: Path) -> None:
    publish(tmp_path, shard_numbers(0, offsets={"a": 7, "b": 2}))
    assert applied(tmp_path, 2) == {}
    publish(tmp_path, shard_numbers(1, offsets={"a": 5}))
    assert applied(tmp_path, 2) == {"a": 5, "b": 2}


def test_the_slowest_shard_sets_watermark_lag_and_snapshot_age(tmp_path: Path) -> None:
    published = [
        shard_numbers(0, watermark_us=90_000_000, snapshot_at_s=50.0, snapshot_ms=3.0),
        shard_numbers(1, watermark_us=95_000_000, snapshot_at_s=60.0, snapshot_ms=2.0),
    ]
    found = JobNumbers.of(published).as_json(100.0)
    assert (found["watermark_lag_s"], found["snapshot_age_s"], found["snapshot_ms"]) == (10.0, 50.0, 3.0)
    assert JobNumbers.of([*published, shard_numbers(2)]).as_json(100.0)["snapshot_age_s"] is None
