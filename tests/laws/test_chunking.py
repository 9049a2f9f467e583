"""Law: the number of windows in a call and the size of batches change no forecast, count or state."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.config import EXPERTS
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from tests.comparisons import (
    YOUNG,
    Floats,
    Key,
    assert_same,
    assert_same_live_series,
    assert_same_scores,
    assert_same_state,
    by_key,
)
from tests.fleets import HOUR_US, SHORT_WEEK, START, fleets, forecaster, rows_of, scales
from tests.folds import Arrival, fold, run_shards
from tests.partitions import LONG_GAP, Logs, all_logs, cut

LATE_BEGINNER = Windows(
    ("a", "b"), START, np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, 7.0], [np.nan, np.nan], [3.0, 9.0]])
)


RETURNS_TWICE = Windows(
    ("a", "b"),
    START,
    np.array([[1.0, 5.0], *[[np.nan, np.nan]] * 5, [2.0, 6.0], *[[np.nan, 6.0]] * 5, [3.0, 7.0]]),
)


def test_the_short_week_model_has_every_expert() -> None:
    assert {*EXPERTS} < {*forecaster(**SHORT_WEEK).members}


@pytest.mark.parametrize(
    ("cell", "empty", "max_gap", "decoder"),
    [
        *product(("lstm", "gru", "rnn"), ("missing", "zero"), (1, 3, 672), (False,)),
        ("lstm", "missing", 3, True),
    ],
)
@settings(max_examples=6)
@given(fleet=fleets(series=12), cuts=st.lists(st.integers(0, 30), max_size=4))
@example(fleet=LATE_BEGINNER, cuts=[1, 3])
@example(fleet=RETURNS_TWICE, cuts=[3])
def test_forecasts_do_not_depend_on_how_windows_are_split_into_calls(
    cell: str, empty: str, max_gap: int, decoder: bool, fleet: Windows, cuts: list[int]
) -> None:
    more = {} if decoder else SHORT_WEEK
    model = forecaster(cell, empty=empty, max_gap=max_gap, decoder=decoder, **more)
    whole_state, whole = advance(model, model.initial_state(), fleet)

    in_blocks, parts = model.initial_state(), []
    for first, stop in pairwise(
        sorted({fleet.start, fleet.stop, *(min(fleet.start + c, fleet.stop) for c in cuts)})
    ):
        in_blocks, part = advance(model, in_blocks, fleet.between(first, stop))
        parts.append(part)
    one_by_one, singles = model.initial_state(), []
    for window in range(fleet.start, fleet.stop):
        one_by_one, single = advance(model, one_by_one, fleet.between(window, window + 1))
        singles.append(single)

    for state, forecasts in ((in_blocks, parts), (one_by_one, singles)):
        assert_same(
            by_key([whole]), by_key(forecasts), scales(fleet, empty), within=1e-5 if decoder else YOUNG
        )
        assert_same_state(whole_state, state)
        assert sum(part.cold_starts for part in forecasts) == whole.cold_starts


@pytest.mark.parametrize("max_gap", [3, 672])
@given(fleet=fleets(), gap=st.integers(1, 12))
def test_advance_treats_omitted_windows_as_empty_windows(max_gap: int, fleet: Windows, gap: int) -> None:
    model = forecaster(max_gap=max_gap)
    middle = (fleet.start + fleet.stop) // 2
    before = fleet.between(fleet.start, middle)
    after = fleet.between(middle, fleet.stop)
    after = Windows(after.series_ids, after.start + gap, after.values)
    holes = Windows(fleet.series_ids, middle, np.full((gap, len(fleet.series_ids)), np.nan))

    state, _ = advance(model, model.initial_state(), before)
    omitted, forecasts = advance(model, state, after)
    stepped, during = advance(model, state, holes)
    stepped, then = advance(model, stepped, after)

    # Omitting the windows of a gap must give the same forecasts as stepping through them without values.
    assert_same(by_key([forecasts]), by_key([during, then]), scales(fleet))
    assert_same_state(omitted, stepped)
    assert forecasts.cold_starts == during.cold_starts + then.cold_starts


@given(fleet=fleets())
@example(fleet=RETURNS_TWICE)
def test_a_series_begins_anew_after_a_gap_longer_than_max_gap(fleet: Windows) -> None:
    model = forecaster(max_gap=3)
    _, whole = advance(model, model.initial_state(), fleet)
    found = by_key([whole])
    expected: dict[Key, Floats] = {}
    returns = 0
    for name, values in zip(fleet.series_ids, fleet.values.T, strict=True):
        at = np.flatnonzero(~np.isnan(values))
        parts = np.split(at, np.flatnonzero(np.diff(at) > 4) + 1) if len(at) else []
        # After more than ``max_gap`` windows without a value, the next value of a series is a cold start.
        # After more than ``2 * max_gap`` such windows, the series is forgotten: its next value counts as
        # the first value of a new series, and is no cold start.
        returns += int(((np.diff(at) > 4) & (np.diff(at) <= 7)).sum())
        for part in parts:
            stop = min(int(part[-1]) + 4, len(values))
            alone = Windows((name,), fleet.start + int(part[0]), values[part[0] : stop, None])
            expected |= by_key([advance(model, model.initial_state(), alone)[1]])
    assert_same(expected, found, scales(fleet))
    assert whole.cold_starts == returns


def test_advancing_by_no_windows_does_not_change_the_state() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), LATE_BEGINNER)
    after, forecasts = advance(model, state, LATE_BEGINNER.between(LATE_BEGINNER.stop, LATE_BEGINNER.stop))
    assert len(forecasts) == 0
    assert_same_state(state, after)


@pytest.mark.parametrize("max_gap", [1, 3, LONG_GAP])
@settings(max_examples=8)
@given(logs=all_logs(), data=st.data(), windows_per_step=st.integers(1, 40))
def test_outputs_do_not_depend_on_sizes_of_batches_or_blocks(
    max_gap: int, logs: Logs, data: st.DataObject, windows_per_step: int
) -> None:
    model = forecaster(max_gap=max_gap, **SHORT_WEEK)
    whole = fold(model, logs.one_by_one(), 2, 32, logs.partitions)
    pieces = [batch for log in logs.parts for batch in cut(data.draw, log)]
    other = fold(model, pieces, 2, windows_per_step, logs.partitions)

    assert whole.counts == other.counts
    assert_same_scores(whole.counts.scores, other.counts.scores)
    assert_same(by_key(whole.forecasts), by_key(other.forecasts), logs.scale, within=YOUNG)
    for one, two in zip(whole.shards, other.shards, strict=True):
        assert one.closed_through == two.closed_through
        assert_same_live_series([one.state], [two.state])


@pytest.mark.parametrize("windows_per_step", [1, 32])
def test_a_gap_of_years_is_not_stepped_window_by_window(windows_per_step: int) -> None:
    model = forecaster(max_gap=3)
    near, far = START, START + 20 * 365 * 24
    fleet = Windows(("a", "b"), near, np.array([[1.0, 2.0], [1.5, 2.5]]))
    lone = rows_of(Windows(("a",), far, np.ones((1, 1))))
    ran = run_shards(
        model, [Arrival(pl.concat([rows_of(fleet), lone]), (far + 1) * HOUR_US)], 1, windows_per_step
    )
    closed = [block.start for block in ran.forecasts if block is not None]
    assert len(closed) <= 2 + 2 * 6
    # `cold_starts` counts returns of retired series that are not forgotten. Series a is forgotten in the
    # gap of years, so it counts as new.
    assert ran.counts.cold_starts == 0
    assert ran.counts.windows == 2 + 3 + 1
    assert ran.counts.used == 5
    assert ran.shards[0].closed_through == far


def test_series_without_values_get_no_forecasts_and_no_state() -> None:
    model = forecaster(max_gap=3)
    values = np.full((40, 3), np.nan)
    values[:2, 0] = values[30:, 1] = 1.0
    ran = run_shards(
        model, [Arrival(rows_of(Windows(("a", "b", "never"), START, values)), START * HOUR_US)], 2
    )
    assert ran.counts.cold_starts == 0
    assert {name for state in ran.states for name in state.series_ids} == {"a", "b"}
    assert set(by_key(ran.forecasts)) == {("a", START + k) for k in range(5)} | {
        ("b", START + k) for k in range(30, 40)
    }
