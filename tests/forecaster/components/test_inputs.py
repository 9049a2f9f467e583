from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.components.inputs import INPUTS_BESIDE_LAGS, Inputs, input_count, network_inputs
from forecaster.config import NetworkConfig
from forecaster.windows import Windows
from tests.fleets import fleets

CONFIG = NetworkConfig(hidden=4, lags=(1, 2, 5), ring=6, halflife=20)


def inputs_of(values: list[float], start: int = 0, freq_s: int = 3600) -> Inputs:
    return network_inputs(np.array(values)[:, None], np.array([start]), freq_s, CONFIG)


def by_hand(values: list[float], start: int, freq_s: int) -> list[list[float]]:
    """Inputs of one series, one window at a time, straight from what each of them is said to be."""
    forget = 1 - 2 ** (-1 / CONFIG.halflife)
    mean, variance, last, age, observed = 0.0, 0.0, 0.0, 0, 0
    rows = []
    for t, value in enumerate(values):
        seen = not math.isnan(value)
        age += 1
        if seen:
            observed, age, last = observed + 1, 0, value
            weight = max(1 / observed, forget)
            delta = value - mean
            mean += weight * delta
            variance = (1 - weight) * (variance + weight * delta**2)
        scale = max(math.sqrt(variance), 1e-12 * max(abs(mean), 1.0))
        before = values[t - 1] if t else math.nan

        def scaled(deviation: float, scale: float = scale) -> float:
            return 0.0 if math.isnan(deviation) else max(-10.0, min(10.0, deviation / scale))

        at_s = (start + t + 1) * freq_s
        day, week = (2 * math.pi * (at_s % period) / period for period in (86_400, 604_800))
        rows.append(
            [
                scaled(last - mean),
                scaled(value - before),
                float(seen),
                math.log1p(age) / 5,
                math.sin(day),
                math.cos(day),
                math.sin(week),
                math.cos(week),
                *(scaled(values[t - lag] - last if t >= lag else math.nan) for lag in CONFIG.lags),
            ]
        )
    return rows


@given(fleet=fleets(windows=20), freq_s=st.sampled_from([900, 3600, 86_400]))
def test_inputs_are_what_one_series_at_a_time_by_hand_gives(fleet: Windows, freq_s: int) -> None:
    found = network_inputs(fleet.values, np.array([fleet.start]), freq_s, CONFIG)
    assert found.x.shape == (*fleet.values.shape, input_count(CONFIG))
    for s in range(len(fleet.series_ids)):
        expected = by_hand(fleet.values[:, s].tolist(), fleet.start, freq_s)
        np.testing.assert_allclose(found.x[:, s], expected, atol=1e-4)


@given(
    values=st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan)), min_size=3, max_size=30),
    power=st.integers(-8, 12),
)
def test_the_network_sees_no_unit(values: list[float], power: int) -> None:
    # A power of two scales every sum of the moments without rounding. Above the least scale, that is.
    one, other = inputs_of(values), inputs_of([v * 2.0**power for v in values])
    told_apart = (one.scale > 1e-5)[:, 0] & (other.scale > 1e-5)[:, 0]
    np.testing.assert_allclose(one.x[told_apart], other.x[told_apart], atol=1e-6)


def test_the_network_sees_no_level() -> None:
    values = np.random.default_rng(0).normal(size=50).cumsum()
    on_the_ground, high_up = inputs_of(values.tolist()), inputs_of((values + 2.0**30).tolist())
    np.testing.assert_allclose(on_the_ground.x[1:], high_up.x[1:], atol=1e-5)


def test_what_is_missing_is_zero_and_said_to_be_missing() -> None:
    x = inputs_of([1.0, 2.0, math.nan, math.nan, 5.0]).x[:, 0]
    assert x[:, 2].tolist() == [1, 1, 0, 0, 1]
    assert x[2:, 1].tolist() == [0, 0, 0]  # a difference needs both ends
    np.testing.assert_allclose(x[:, 3], np.log1p([0, 0, 1, 2, 0]) / 5, rtol=1e-6)
    assert np.isfinite(x).all()


def test_a_constant_series_has_a_scale_above_zero_and_inputs_of_zero() -> None:
    found = inputs_of([7.0] * 20)
    assert (found.scale > 0).all()
    assert (found.x[:, 0, [0, 1, *range(INPUTS_BESIDE_LAGS, found.x.shape[2])]] == 0).all()


def test_a_jump_after_a_long_rest_is_clipped() -> None:
    x = inputs_of([1.0] * 300 + [1e12]).x
    assert np.abs(x).max() <= 10


@pytest.mark.parametrize(("freq_s", "windows"), [(3600, 24), (900, 96)])
def test_the_hour_of_the_day_comes_round(freq_s: int, windows: int) -> None:
    x = inputs_of([0.0] * (windows + 1), 0, freq_s).x[:, 0]
    np.testing.assert_allclose(x[0, 4:6], x[windows, 4:6], atol=1e-6)
    assert not np.allclose(x[0, 4:6], x[windows // 2, 4:6])


def test_without_lags_and_a_ring_the_inputs_are_those_beside_the_lags() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[4:6] = np.nan
    bare = network_inputs(values, np.array([0]), 3600, NetworkConfig(lags=(), ring=0, halflife=20))
    full = network_inputs(values, np.array([0]), 3600, CONFIG)
    np.testing.assert_array_equal(bare.x, full.x[:, :, :INPUTS_BESIDE_LAGS])
