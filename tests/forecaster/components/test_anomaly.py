"""Tests of the component that gives each value a p-value and an alarm.

The p-value is the probability of a value that is at least as far from its forecast. Alarms are limited to
a target rate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.components.anomaly import Anomaly
from forecaster.components.base import Block
from tests.forecaster.components.blocks import block_of

WEEK = 168


def step_anomaly(values: Floats, spread: float = 1.645, rate: float = 1 / WEEK, unit: float = 1.0) -> Block:
    """Step `Anomaly` and return the block; each median forecast is 0, the outer quantiles are ±``spread``.

    Values and quantiles are multiplied by ``unit``.
    """
    block = block_of(values)
    block = replace(block, values=values * unit, scale=block.scale * unit)
    block.out.forecast[:] = unit * np.array([-spread, 0.0, spread])[:, None, None, None]
    anomaly = Anomaly(0.05, 0.95, rate, middle=1)
    return anomaly.step(anomaly.init(values.shape[1]), block)[1]


def test_p_values_of_normal_noise_are_uniform() -> None:
    values = np.random.default_rng(0).normal(size=(2000, 50))
    p_value = step_anomaly(values).out.anomaly[0, 1:, :, 0]
    for share in (0.5, 0.1, 0.02):
        assert abs((p_value < share).mean() / share - 1) < 0.2


def test_alarm_rates_meet_their_target_for_light_and_heavy_tails() -> None:
    rng = np.random.default_rng(1)
    size = (5000, 4)  # four series of each kind, because additional series cost hardly any time
    values = np.concatenate(
        [rng.normal(size=size), rng.standard_t(2, size), rng.uniform(-3, 3, size)], axis=1
    )
    alarms = np.nansum(step_anomaly(values).out.anomaly[1], axis=(0, 2)).reshape(3, 4).sum(axis=1)
    np.testing.assert_allclose(alarms / (20_000 / WEEK), 1.0, atol=0.25)


def test_a_spike_and_a_stuck_sensor_each_raise_an_alarm() -> None:
    values = np.random.default_rng(2).normal(size=(1000, 2))
    values[500, 0] = 12.0
    values[500:530, 1] = values[499, 1]
    alarm = step_anomaly(values).out.anomaly[1, :, :, 0]
    assert alarm[500, 0] == 1
    assert alarm[500:530, 1].any()


def test_a_mostly_constant_series_raises_few_alarms() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random((4000, 1)) < 0.9, 0.0, rng.normal(size=(4000, 1)))
    alarm = step_anomaly(values).out.anomaly[1, 2000:, 0, 0]
    assert alarm.sum() < 3 * 2000 / WEEK


def test_p_value_and_alarm_are_nan_without_value_or_forecast() -> None:
    values = np.array([[1.0], [np.nan], [1.5]])
    p_value, alarm = step_anomaly(values).out.anomaly[:, :, 0, 0]
    assert np.isnan(p_value).tolist() == np.isnan(alarm).tolist() == [True, True, False]


def test_share_of_p_values_below_p_hardly_exceeds_p() -> None:
    """The test allows a share of up to 1.3 p, because the values are random.

    For heavy tails, the share must also be at least p / 1.5.
    """
    rng = np.random.default_rng(4)
    size = (4000, 4)  # four series of each distribution
    draws = [rng.standard_t(2, size), rng.uniform(-3, 3, size), rng.exponential(9, size)]
    p_value = step_anomaly(np.concatenate(draws, axis=1)).out.anomaly[0, 2000:, :, 0].reshape(2000, 3, 4)
    for share in (0.1, 0.02, 0.005):
        ratio = (p_value < share).mean(axis=(0, 2)) / share
        assert (ratio < 1.3).all()
        assert ratio[0] > 1 / 1.5


@given(seen=st.integers(1, 400), far=st.sampled_from([3.0, 1e6, 1e300]))
def test_nth_p_value_is_at_least_1_over_n(seen: int, far: float) -> None:
    values = np.random.default_rng(seen).normal(size=(seen + 2, 1))
    values[-1] = far
    p_value = step_anomaly(values).out.anomaly[0, -1, 0, 0]
    assert 1.0 / (seen + 1) <= p_value
    assert p_value <= 2.0 / (seen + 1) or far < 10 or seen < 100


def test_at_tiny_alarm_rates_only_huge_values_raise_alarms() -> None:
    values = np.random.default_rng(5).normal(size=(5000, 2))
    values[4000] = [6.0, 600.0]
    anomaly = step_anomaly(values, rate=1e-5).out.anomaly[:, 4000, :, 0]
    assert anomaly[0, 0] < 1e-3
    assert anomaly[0, 1] < 1e-3
    assert anomaly[1].tolist() == [0, 1]


def test_a_flat_line_raises_one_alarm_at_its_start() -> None:
    values = np.random.default_rng(6).normal(size=(4000, 1))
    values[2000:3000] = values[2000]
    alarm = step_anomaly(values, rate=1 / 500).out.anomaly[1, :, 0, 0]
    assert alarm[2000:2010].sum() == 1
    assert alarm[2010:3000].sum() == 0


def test_zeros_raise_an_alarm_by_day_not_at_night() -> None:
    rng = np.random.default_rng(7)
    open_ = np.isin(np.arange(4800) % 24, range(9, 20))
    values = np.where(open_, rng.normal(size=4800), 0.0)[:, None].repeat(2, axis=1)
    values[4800 - 40 :, 1] = 0.0  # series 1 is a shop that stays closed on the last two days
    p_value, alarm = step_anomaly(values).out.anomaly[..., 0]
    nights = ~open_ & (np.arange(4800) > 1200)
    assert p_value[nights, 0].min() > 0.02
    assert alarm[nights, 0].sum() == 0
    assert alarm[-40:, 1].sum() == 1


def test_a_lasting_anomaly_raises_one_alarm() -> None:
    values = np.random.default_rng(8).normal(size=(1200, 1))
    values[1000:1040] += 15.0
    assert step_anomaly(values).out.anomaly[1, 1000:1040, 0, 0].tolist() == [1] + [0] * 39


@pytest.mark.parametrize("alarms_per_week", [1.0, 0.5])
def test_without_alarms_the_budget_grows_by_rate_each_window(alarms_per_week: float) -> None:
    """The budget is the number of alarms wanted so far minus the number raised; here, none is raised."""
    rate, windows = alarms_per_week / 604_800, 3000
    block = block_of(np.random.default_rng(9).normal(size=(windows, 1)))
    block.out.forecast[:] = np.array([-1.645, 0.0, 1.645])[:, None, None, None]
    anomaly = Anomaly(0.05, 0.95, rate, middle=1)
    arrays = anomaly.step(anomaly.init(1), block)[0]
    raised = np.nansum(block.out.anomaly[1])
    np.testing.assert_allclose(arrays["budget"], rate * (windows - 1) - raised, rtol=1e-9)
    assert raised == 0


def test_multiplying_values_and_forecasts_keeps_p_values_and_alarms() -> None:
    values = np.random.default_rng(10).standard_t(2, size=(2000, 1))
    base = step_anomaly(values)
    for unit in (1e-15, 1e15):
        np.testing.assert_allclose(base.out.anomaly, step_anomaly(values, unit=unit).out.anomaly, rtol=1e-6)
