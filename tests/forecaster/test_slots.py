"""Tests that a shard allocates slots in advance, and frees the slots of forgotten series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.snapshot import from_bytes, to_bytes
from forecaster.time.windows import Windows
from tests.comparisons import assert_same, assert_same_live_series, by_key
from tests.fleets import HOUR_US, START, forecaster, rows_of
from tests.folds import Arrival, batches_of, fold

MAX_GAP = 2
MODEL = forecaster(max_gap=MAX_GAP)


def short_series(series: int, each: int, seed: int = 0) -> Windows:
    """Return ``series`` series of ``each`` values; each begins one window after the previous series."""
    values = np.full((series + each, series), np.nan)
    noise = np.random.default_rng(seed).normal(size=values.shape)
    for s in range(series):
        values[s : s + each, s] = noise[s : s + each, s]
    return Windows(tuple(f"s{i}" for i in range(series)), START, values)


def window_by_window(windows: Windows) -> list[Batch]:
    """Return one batch for each window, with the window's rows and a watermark that closes the window."""
    rows = [rows_of(windows.between(w, w + 1)) for w in range(windows.start, windows.stop)]
    return batches_of([Arrival(part, (windows.start + t + 1) * HOUR_US) for t, part in enumerate(rows)])


def shards_after(batches: list[Batch], shard: Shard | None = None) -> Iterator[Shard]:
    """Apply batches to a shard (by default a new shard); yield the shard after each batch."""
    shard = shard or Shard.cold(0, 1, MODEL.initial_state(), ("rows",))
    for batch in batches:
        for after, _ in apply(shard, batch, MODEL):
            shard = after
        yield shard


def test_adding_series_one_after_the_other_rarely_copies_the_state() -> None:
    rows = rows_of(Windows(tuple(f"s{i:03d}" for i in range(200)), START, np.ones((1, 200))))
    shards = list(shards_after(batches_of([Arrival(rows[i : i + 1], START * HOUR_US) for i in range(200)])))
    addresses = [shard.state.parts["ring"]["values"].__array_interface__["data"][0] for shard in shards]
    state = shards[-1].state
    assert state.series_ids == tuple(shards[-1].slots.sort("slot")["series_id"])
    assert len(state) == 200
    assert sum(one != other for one, other in pairwise(addresses)) <= 25


def test_slots_of_forgotten_series_are_freed() -> None:
    for shard in shards_after(window_by_window(short_series(120, 3))):
        assert len(shard.state) <= 3 + 2 * MAX_GAP + 4
        assert shard.slots["slot"].to_list() == list(range(len(shard.state)))


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), each=st.integers(1, 6), shards=st.integers(1, 4))
def test_freeing_slots_changes_no_forecast(seed: int, each: int, shards: int) -> None:
    windows = short_series(20, each, seed)
    # Eight series get values again after a gap, most of them after they have retired.
    # The last series has a value in every window.
    windows.values[14:17, :8] = 1.5
    windows.values[:, 19] = np.random.default_rng(seed).normal(size=len(windows.values))
    rows = rows_of(windows)
    end = (windows.stop + 1) * HOUR_US
    closing_batch = replace(batches_of([Arrival(rows[:0], end)])[0], start=len(rows), stop=len(rows))
    at_once = fold(MODEL, batches_of([Arrival(rows, end)]), 1, 64)
    step_by_step = fold(MODEL, [*window_by_window(windows), closing_batch], shards)
    scale = dict.fromkeys(windows.series_ids, 1.0)
    assert_same(by_key(at_once.forecasts), by_key(step_by_step.forecasts), scale)
    assert at_once.counts.cold_starts == step_by_step.counts.cold_starts
    assert_same_live_series(at_once.states, step_by_step.states)


@pytest.mark.parametrize("cut", [10, 31])
def test_a_shard_with_freed_slots_resumes_from_a_snapshot(cut: int) -> None:
    batches = window_by_window(short_series(40, 2))
    copies = [from_bytes(to_bytes(shard)) for shard in shards_after(batches[: cut + 1])]
    *_, whole = shards_after(batches)
    *_, resumed = shards_after(batches[cut + 1 :], copies[-1])
    assert resumed.state.series_ids == whole.state.series_ids
    assert resumed.counts == whole.counts
    assert_same_live_series([resumed.state], [whole.state])
