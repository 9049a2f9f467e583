from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shard import admit, closings, shard_of
from forecaster.windows import Windows
from schemas import observations
from tests.fleets import START, fleets, forecaster, rows_of


def test_a_series_is_in_the_shard_that_it_was_always_in() -> None:
    # These numbers are in state tables that people have: a change here is a migration.
    assert [shard_of(name, 8) for name in ("a", "EWR temp", "Zürich", "🚲", "")] == [3, 7, 6, 6, 0]


@given(seed=st.integers(0, 1000), shards=st.integers(1, 16))
def test_series_are_spread_over_all_shards(seed: int, shards: int) -> None:
    names = [f"site {seed} meter {i}" for i in range(400)]
    counts = np.bincount([shard_of(name, shards) for name in names], minlength=shards)
    assert len(counts) == shards
    assert counts.min() > 0
    assert counts.max() < 4 * len(names) / shards


@given(fleet=fleets(windows=10), closed=st.integers(-2, 12))
def test_a_row_is_in_time_as_long_as_its_window_is_open(fleet: Windows, closed: int) -> None:
    rows = rows_of(fleet)
    open_rows, late = admit(rows, fleet.start + closed, 3600)
    by_hand = int((~np.isnan(fleet.values[: max(closed + 1, 0)])).sum())
    assert late == by_hand
    assert len(open_rows) == len(rows) - by_hand


def test_before_the_first_window_has_closed_no_row_is_late() -> None:
    rows = rows_of(Windows(("a",), START, np.ones((3, 1))))
    assert admit(rows, None, 3600) == (rows, 0)


@pytest.mark.parametrize("per_step", [1, 4, 100])
def test_blocks_end_at_the_same_windows_wherever_a_run_begins(per_step: int) -> None:
    model = forecaster()
    begins = (START, START + 1, START + 6)
    ends = []
    for begin in begins:
        rows = rows_of(Windows(("a",), begin, np.ones((START + 11 - begin, 1))))
        blocks = [f for f, _ in closings(model, model.initial_state(), rows, START + 10, per_step) if f]
        stops = [block.start + block.values.shape[1] for block in blocks]
        assert all(block.values.shape[1] <= per_step for block in blocks)
        assert all(stop == after.start for stop, after in zip(stops, blocks[1:], strict=False))
        ends.append(set(stops))
    assert ends[2] <= ends[1] <= ends[0]


def test_rows_of_windows_that_stay_open_wait() -> None:
    model = forecaster()
    rows = rows_of(Windows(("a", "b"), START, np.ones((5, 2))))
    *_, (_, closed) = closings(model, model.initial_state(), rows, START + 2, 32)
    assert (closed.used, closed.duplicates, len(closed.pending)) == (6, 0, 4)
    assert closed.state.clock.tolist() == [START + 2] * 2


def test_a_shard_without_a_series_has_nothing_to_forecast() -> None:
    model = forecaster()
    ((forecasts, closed),) = closings(model, model.initial_state(), observations.empty(), START, 32)
    assert forecasts is None
    assert len(closed.state) == closed.used == len(closed.pending) == 0


def test_a_shard_whose_rows_are_all_of_later_windows_keeps_them() -> None:
    model = forecaster()
    rows = rows_of(Windows(("a",), START + 5, np.ones((2, 1))))
    ((forecasts, closed),) = closings(model, model.initial_state(), rows, START + 3, 32)
    assert forecasts is None
    assert len(closed.pending) == 2


def test_closing_what_is_closed_does_nothing() -> None:
    model = forecaster()
    rows = rows_of(Windows(("a",), START, np.ones((3, 1))))
    *_, (_, once) = closings(model, model.initial_state(), rows, START + 2, 32)
    ((forecasts, again),) = closings(model, once.state, once.pending, START + 1, 32)
    assert forecasts is None
    assert again.state is once.state
