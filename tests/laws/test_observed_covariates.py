"""Laws of all forecasters, tested here with an observed covariate, and laws of the covariate itself.

The laws of all forecasters are tested without an observed covariate in test_chunking, test_company,
test_causality, test_order and test_versions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forecaster.shards import snapshot
from forecaster.shards.sharding import hand_over_shards, reshard
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import rewarm
from forecaster.time.windows import Windows
from tests.comparisons import assert_same, assert_same_live_series, assert_same_state, by_key
from tests.fleets import HOUR_US, START, fleets, forecaster, rows_of, scales, with_heat
from tests.folds import Arrival, batches_of, fold, fold_on, run_shards

HEAT = ("heat",)
FLEET_WITH_HEAT = with_heat(Windows(tuple("abcdefg"), START, np.random.default_rng(1).normal(size=(40, 7))))


@pytest.mark.parametrize(
    ("cell", "max_gap", "decoder"), [("lstm", 3, False), ("gru", 672, False), ("rnn", 672, True)]
)
@given(fleet=fleets().map(with_heat), size=st.integers(1, 9))
def test_forecasts_do_not_depend_on_how_windows_are_split_into_calls(
    cell: str, max_gap: int, decoder: bool, fleet: Windows, size: int
) -> None:
    model = forecaster(cell, max_gap=max_gap, decoder=decoder, observed=HEAT)
    whole_state, whole = advance(model, model.initial_state(), fleet)
    state, parts = model.initial_state(), []
    for first in range(fleet.start, fleet.stop, size):
        state, part = advance(model, state, fleet.between(first, first + size))
        parts.append(part)
    assert_same(by_key([whole]), by_key(parts), scales(fleet))
    assert_same_state(whole_state, state)


@given(fleet=fleets().map(with_heat), data=st.data())
def test_forecasts_do_not_depend_on_other_series(fleet: Windows, data: st.DataObject) -> None:
    model = forecaster(max_gap=2, observed=HEAT)
    _, together = advance(model, model.initial_state(), fleet)
    order = data.draw(st.permutations(range(len(fleet.series_ids))))
    chosen = fleet.of_series(order[: data.draw(st.integers(1, len(order)))])
    _, apart = advance(model, model.initial_state(), chosen)
    expected = {key: values for key, values in by_key([together]).items() if key[0] in chosen.series_ids}
    assert_same(expected, by_key([apart]), scales(fleet))


@given(fleet=fleets().map(with_heat), t=st.integers(1, 29), seed=st.integers(0, 1000))
def test_later_covariates_change_no_bit_of_a_forecast(fleet: Windows, t: int, seed: int) -> None:
    assume(t < len(fleet.values))
    model = forecaster(observed=HEAT)
    heat = fleet.past["heat"].copy()
    heat[t:] = with_heat(fleet, seed + 1).past["heat"][t:] * 1e6
    _, one = advance(model, model.initial_state(), fleet)
    _, two = advance(model, model.initial_state(), replace(fleet, past={"heat": heat}))
    np.testing.assert_array_equal(one.values[:, :t], two.values[:, :t])


def test_a_covariate_changes_no_forecast_before_its_window() -> None:
    model, t = forecaster(observed=HEAT), 20
    heat = FLEET_WITH_HEAT.past["heat"].copy()
    heat[t, 3] = np.nanmean(heat[:, 3]) + 9.0
    _, one = advance(model, model.initial_state(), FLEET_WITH_HEAT)
    _, two = advance(model, model.initial_state(), replace(FLEET_WITH_HEAT, past={"heat": heat}))
    moved = np.abs(one.values - two.values).max(axis=(0, 3)) > 1e-3
    assert moved[t, 3]
    assert not moved[:t].any()
    assert not moved[:, [0, 1, 2, 4, 5, 6]].any()


@given(fleet=fleets().map(with_heat), seed=st.integers(0, 1000), shards=st.integers(1, 4))
def test_row_order_and_shard_count_do_not_change_forecasts(fleet: Windows, seed: int, shards: int) -> None:
    model = forecaster(observed=HEAT)
    rows = rows_of(fleet)
    assume(len(rows) > 0)
    # A window without a value has no row, so it has no covariate either.
    heat = np.where(np.isnan(fleet.values), np.nan, fleet.past["heat"])
    _, expected = advance(model, model.initial_state(), replace(fleet, past={"heat": heat}))
    before = rows["timestamp"].min().timestamp() * 1e6  # type: ignore[union-attr]
    arrivals = [
        Arrival(part, int(before)) for part in rows.sample(fraction=1, shuffle=True, seed=seed).iter_slices(7)
    ]
    ran = run_shards(model, arrivals, shards)
    last = int(np.flatnonzero((~np.isnan(fleet.values)).any(axis=1)).max()) + fleet.start
    until = {key: values for key, values in by_key([expected]).items() if key[1] <= last}
    assert_same(until, by_key(ran.forecasts), scales(fleet))


@pytest.mark.parametrize("shards", [(1, 3), (3, 2)])
def test_pending_rows_keep_covariates_through_snapshot_and_resharding(shards: tuple[int, int]) -> None:
    model, rows = forecaster(observed=HEAT), rows_of(FLEET_WITH_HEAT).sort("timestamp")
    half_us, end_us = (START + 20) * HOUR_US, (START + 40) * HOUR_US
    first, second = batches_of([Arrival(rows[:200], half_us), Arrival(rows[200:], end_us)])
    whole = fold(model, [first, second])
    begun = fold(model, [first], shards[0])
    assert begun.counts.pending > 20
    kept = [snapshot.from_bytes(snapshot.to_bytes(shard)) for shard in begun.shards]
    moved = hand_over_shards(reshard(kept, shards[1]))
    again = replace(second, start=0, stop=second.stop - second.start)
    again = replace(again, rows=again.rows.with_columns(offset=again.rows["offset"] - second.start))
    rest = fold_on(model, moved, [[again]] * shards[1])
    assert_same(by_key(whole.forecasts), by_key([*begun.forecasts, *rest.forecasts]), scales(FLEET_WITH_HEAT))
    assert_same_live_series(whole.states, rest.states)


@given(fleet=fleets(windows=12).map(with_heat))
def test_a_rewarm_with_covariates_equals_stepping_from_the_start(fleet: Windows) -> None:
    old, new = (forecaster(cell, ring=20, observed=HEAT) for cell in ("lstm", "gru"))
    assume(len(fleet.values) > 2)
    now = fleet.stop - 2
    state, _ = advance(old, old.initial_state(), fleet.between(fleet.start, now))
    warm = rewarm(new, state)
    cold, _ = advance(new, new.initial_state(), fleet.between(fleet.start, now))
    assert_same_state(cold, warm)


def test_rewarming_treats_a_new_observed_covariate_as_missing() -> None:
    old, new = forecaster(ring=60), forecaster("gru", ring=60, observed=HEAT)
    state, _ = advance(old, old.initial_state(), FLEET_WITH_HEAT)
    cold, _ = advance(new, new.initial_state(), replace(FLEET_WITH_HEAT, past={}))
    assert_same_state(cold, rewarm(new, state))
