"""Tests of the inputs of the network, which are computed from the values and times of a series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.components.network.inputs import INPUTS_BESIDE_LAGS, Inputs, input_count, network_inputs
from forecaster.components.network.ridge import LINEAR_EXPERT_COUNT, regressor_count
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from tests.fleets import HOUR, fleets

CONFIG = NetworkConfig(hidden=4, lags=(1, 2, 5), ring=6, halflife=20)
RIDGE = np.random.default_rng(0).normal(size=(2, regressor_count(6), 1)).astype(np.float32)


def inputs_of(values: list[float], start: int = 0, freq_s: int = 3600, prior: float = 0.0) -> Inputs:
    return network_inputs(
        np.array(values)[:, None], np.array([start]), Frequency(freq_s), CONFIG, RIDGE, prior
    )


@given(fleet=fleets(windows=20), freq_s=st.sampled_from([900, 3600, 86_400]))
def test_lag_inputs_are_distances_from_the_last_value_divided_by_spread(fleet: Windows, freq_s: int) -> None:
    found = network_inputs(fleet.values, np.array([fleet.start]), Frequency(freq_s), CONFIG, RIDGE)
    assert found.x.shape == (*fleet.values.shape, input_count(CONFIG))
    assert np.isfinite(found.x).all()
    block = found.block
    for column, lag in enumerate(CONFIG.lags, INPUTS_BESIDE_LAGS):
        for t in range(len(fleet.values)):
            past = fleet.values[t - lag] if t >= lag else np.full(fleet.values.shape[1], np.nan)
            off = np.where(np.isnan(past), block.mean[t], past) - block.last[t]
            # Distances above 20 scales are compressed before they become inputs, so check only their bound.
            near = np.abs(off) <= 20 * block.scale[t]
            expected = np.clip(off / block.spread[t], -6, 6)
            np.testing.assert_allclose(found.x[t, near, column], expected[near], atol=1e-4)
            assert (np.abs(found.x[t, ~near, column]) <= np.abs(expected[~near]) + 1e-4).all()


@given(
    values=st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan)), min_size=3, max_size=30),
    power=st.integers(-8, 12),
)
def test_multiplying_all_values_does_not_change_the_network_inputs(values: list[float], power: int) -> None:
    # Multiplying by a power of two is exact, so the sums of both runs are rounded in the same way.
    # The lower bound of scales, 1e-150, is not multiplied with the values. So compare only windows with
    # scales far above this bound: above 1e-5.
    one, other = inputs_of(values), inputs_of([v * 2.0**power for v in values])
    unbounded = (one.block.scale > 1e-5)[:, 0] & (other.block.scale > 1e-5)[:, 0]
    np.testing.assert_allclose(one.x[unbounded], other.x[unbounded], atol=1e-5)


def test_network_inputs_do_not_depend_on_the_level_of_values() -> None:
    values = np.random.default_rng(0).normal(size=50).cumsum()
    base, raised = inputs_of(values.tolist()), inputs_of((values + 2.0**30).tolist())
    np.testing.assert_allclose(base.x[1:], raised.x[1:], atol=1e-5)


def test_missing_lags_become_the_mean_and_missing_differences_0() -> None:
    found = inputs_of([1.0, 2.0, math.nan, math.nan, 5.0])
    x, block = found.x[:, 0], found.block
    assert x[:, 4].tolist() == [1, 1, 0, 0, 1]
    assert x[2:, 1].tolist() == [0, 0, 0]  # at least one of the two values of each difference is missing
    np.testing.assert_allclose(x[:, 5], np.log1p([0, 0, 1, 2, 0]) / 5, rtol=1e-6)
    np.testing.assert_allclose(x[:, 6], np.log1p([1, 2, 2, 2, 3]) / 7, rtol=1e-6)
    expected = (block.mean[4, 0] - block.last[4, 0]) / block.spread[4, 0]
    assert x[4, INPUTS_BESIDE_LAGS] == pytest.approx(expected, rel=1e-5)


def test_inputs_that_are_differences_are_0_for_constant_series() -> None:
    x = inputs_of([7.0] * 20).x
    assert (x[:, 0, [0, 1, *range(INPUTS_BESIDE_LAGS, x.shape[2])]] == 0).all()


def test_network_inputs_stay_bounded_when_a_constant_series_jumps() -> None:
    x = inputs_of([1.0] * 300 + [1e12]).x
    assert np.abs(x[:, :, : INPUTS_BESIDE_LAGS + 3]).max() <= 7
    assert np.isfinite(x).all()


def test_the_last_input_columns_are_errors_of_the_linear_experts() -> None:
    values = np.random.default_rng(0).normal(size=30).cumsum()
    values[10] = np.nan
    found = inputs_of(values.tolist())
    errors, block = found.x[:, 0, -LINEAR_EXPERT_COUNT:], found.block
    both = ~np.isnan(values[1:]) & ~np.isnan(values[:-1])
    last, mean, unit = block.last[:, 0], block.mean[:, 0], block.unit[:, 0]
    for column, expected in ((-1, last), (-2, mean)):
        off = (values[1:] - last[:-1]) / unit[1:] - (expected - last)[:-1] / unit[:-1]
        near = np.abs(mean - last)[:-1] < 20 * block.scale[:-1, 0]
        off = np.sign(off) * np.log1p(np.abs(off))
        np.testing.assert_allclose(errors[1:, column][near], np.where(both, off, 0.0)[near], atol=1e-5)
    assert (errors[0] == 0).all()
    assert (errors[10:12] == 0).all()


@pytest.mark.parametrize(("freq_s", "windows"), [(3600, 24), (900, 96)])
def test_time_of_day_inputs_repeat_after_a_day(freq_s: int, windows: int) -> None:
    x = inputs_of([0.0] * (windows + 1), 0, freq_s).x[:, 0]
    np.testing.assert_allclose(x[0, 7:9], x[windows, 7:9], atol=1e-6)
    assert not np.allclose(x[0, 7:9], x[windows // 2, 7:9])


def test_time_of_year_inputs_repeat_after_a_year() -> None:
    values = np.zeros((13, 1))
    x = network_inputs(values, np.array([636]), Frequency(0, 1), CONFIG, RIDGE).x[:, 0]  # 2023
    # Columns 7 and 8 are sine and cosine of the next window's phase in its month; on day 1, the phase is 0.
    # Columns 9 and 10 are sine and cosine of the next window's phase in its year; in January, the phase is 0.
    np.testing.assert_allclose(x[:, 7:9], [[0.0, 1.0]] * 13, atol=1e-6)
    np.testing.assert_allclose(x[11, 9:11], [0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(x[0, 9:11], x[12, 9:11], atol=0.02)
    assert x[5, 10] < -0.99


def test_removing_lags_and_linear_experts_changes_no_other_input() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[4:6] = np.nan
    bare = NetworkConfig(lags=(), ring=0, halflife=20, linear=False)
    one = network_inputs(values, np.array([0]), HOUR, bare)
    full = network_inputs(values, np.array([0]), HOUR, CONFIG, RIDGE)
    np.testing.assert_array_equal(one.x, full.x[:, :, :INPUTS_BESIDE_LAGS])
