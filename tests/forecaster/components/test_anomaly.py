from __future__ import annotations

import numpy as np

from forecaster.components.anomaly import Anomaly
from forecaster.components.base import Block, Floats
from tests.forecaster.components.blocks import block_of

WEEK = 168


def judged(values: Floats, spread: float = 1.645, rate: float = 1 / WEEK) -> Block:
    """Values under a forecast of 0 with quantiles ``spread`` apart from it."""
    block = block_of(values)
    block.out.forecast[:] = np.array([-spread, 0.0, spread])[:, None, None, None]
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
