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


def judged(values: Floats, spread: float = 1.645, rate: float = 1 / WEEK, unit: float = 1.0) -> Block:
    """Values under a forecast of 0 with quantiles ``spread`` apart from it, all of them times ``unit``."""
    block = block_of(values)
    block = replace(block, values=values * unit, scale=block.scale * unit)
    block.out.forecast[:] = unit * np.array([-spread, 0.0, spread])[:, None, None, None]
    anomaly = Anomaly(0.05, 0.95, rate, middle=1)
    return anomaly.step(anomaly.init(values.shape[1]), block)[1]


def test_p_values_are_the_shares_that_they_say() -> None:
    values = np.random.default_rng(0).normal(size=(5000, 20))
    p_value = judged(values).out.anomaly[0, 1:, :, 0]
    for share in (0.5, 0.1, 0.02):
        assert abs((p_value < share).mean() / share - 1) < 0.2


def test_there_are_as_many_alarms_as_wanted_whatever_the_tails_are() -> None:
    chance = np.random.default_rng(1)
    values = np.stack(
        [chance.normal(size=20_000), chance.standard_t(2, 20_000), chance.uniform(-3, 3, 20_000)], axis=1
    )
    alarms = np.nansum(judged(values).out.anomaly[1], axis=(0, 2))
    np.testing.assert_allclose(alarms / (20_000 / WEEK), 1.0, atol=0.25)


def test_a_spike_and_a_sensor_that_hangs_raise_an_alarm() -> None:
    values = np.random.default_rng(2).normal(size=(1000, 2))
    values[500, 0] = 12.0
    values[500:530, 1] = values[499, 1]
    alarm = judged(values).out.anomaly[1, :, :, 0]
    assert alarm[500, 0] == 1
    assert alarm[500:530, 1].any()


def test_a_value_that_often_repeats_itself_is_no_surprise() -> None:
    chance = np.random.default_rng(3)
    values = np.where(chance.random((4000, 1)) < 0.9, 0.0, chance.normal(size=(4000, 1)))
    alarm = judged(values).out.anomaly[1, 2000:, 0, 0]
    assert alarm.sum() < 3 * 2000 / WEEK


def test_there_is_no_p_value_without_a_value_or_a_forecast_for_it() -> None:
    values = np.array([[1.0], [np.nan], [1.5]])
    p_value, alarm = judged(values).out.anomaly[:, :, 0, 0]
    assert np.isnan(p_value).tolist() == np.isnan(alarm).tolist() == [True, True, False]


def test_p_values_hold_whatever_the_distribution_is() -> None:
    chance = np.random.default_rng(4)
    draws = [chance.standard_t(2, 10_000), chance.uniform(-3, 3, 10_000), chance.exponential(9, 10_000)]
    p_value = judged(np.stack(draws, axis=1)).out.anomaly[0, 2000:, :, 0]
    for share in (0.1, 0.02, 0.005):
        ratio = (p_value < share).mean(axis=0) / share
        assert (ratio < 1.3).all()
        assert ratio[0] > 1 / 1.5


@given(seen=st.integers(1, 400), far=st.sampled_from([3.0, 1e6, 1e300]))
def test_no_p_value_is_below_one_of_the_windows_seen(seen: int, far: float) -> None:
    values = np.random.default_rng(seen).normal(size=(seen + 2, 1))
    values[-1] = far
    p_value = judged(values).out.anomaly[0, -1, 0, 0]
    assert 1.0 / (seen + 1) <= p_value
    assert p_value <= 2.0 / (seen + 1) or far < 10 or seen < 100


def test_of_two_values_beyond_all_before_the_farther_raises_the_alarm() -> None:
    values = np.random.default_rng(5).normal(size=(5000, 2))
    values[4000] = [6.0, 600.0]
    anomaly = judged(values, rate=1e-5).out.anomaly[:, 4000, :, 0]
    assert anomaly[0, 0] < 1e-3
    assert anomaly[0, 1] < 1e-3
    assert anomaly[1].tolist() == [0, 1]


def test_a_flat_line_raises_one_alarm_when_it_begins() -> None:
    values = np.random.default_rng(6).normal(size=(4000, 1))
    values[2000:3000] = values[2000]
    alarm = judged(values, rate=1 / 500).out.anomaly[1, :, 0, 0]
    assert alarm[2000:2010].sum() == 1
    assert alarm[2010:3000].sum() == 0


def test_a_shop_that_is_closed_every_night_does_not_hang() -> None:
    chance = np.random.default_rng(7)
    open_ = np.isin(np.arange(4800) % 24, range(9, 20))
    values = np.where(open_, chance.normal(size=4800), 0.0)[:, None]
    p_value, alarm = judged(values).out.anomaly[:, :, 0, 0]
    nights = ~open_ & (np.arange(4800) > 1200)
    assert p_value[nights].min() > 0.02
    assert alarm[nights].sum() == 0
    values[4800 - 40 :] = 0.0  # one day it stays closed
    assert judged(values).out.anomaly[1, -40:, 0, 0].sum() == 1


def test_an_anomaly_that_lasts_raises_one_alarm() -> None:
    values = np.random.default_rng(8).normal(size=(1200, 1))
    values[1000:1040] += 15.0
    assert judged(values).out.anomaly[1, 1000:1040, 0, 0].tolist() == [1] + [0] * 39


@pytest.mark.parametrize("a_week", [1.0, 0.5])
def test_the_budget_grows_by_the_wanted_rate_in_windows_of_a_second(a_week: float) -> None:
    rate, windows = a_week / 604_800, 3000
    block = block_of(np.random.default_rng(9).normal(size=(windows, 1)))
    block.out.forecast[:] = np.array([-1.645, 0.0, 1.645])[:, None, None, None]
    anomaly = Anomaly(0.05, 0.95, rate, middle=1)
    own = anomaly.step(anomaly.init(1), block)[0]
    raised = np.nansum(block.out.anomaly[1])
    np.testing.assert_allclose(own["budget"], rate * (windows - 1) - raised, rtol=1e-9)
    assert raised == 0


def test_alarms_do_not_depend_on_the_unit() -> None:
    values = np.random.default_rng(10).standard_t(2, size=(2000, 1))
    for unit in (1e-15, 1e15):
        one, other = judged(values), judged(values, unit=unit)
        np.testing.assert_allclose(one.out.anomaly, other.out.anomaly, rtol=1e-6)
