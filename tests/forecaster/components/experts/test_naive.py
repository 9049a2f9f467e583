"""Tests of the weekly naive expert, whose forecast of a window is the value of one week before."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.chain import experts_of
from forecaster.components.experts.naive import SeasonalNaive
from forecaster.components.season import Season
from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig
from forecaster.time.window_config import WindowConfig
from tests.forecaster.components.blocks import block_of, step_through

WEEK = 168


def test_weekly_naive_repeats_the_value_of_a_week_before() -> None:
    values = np.random.default_rng(0).normal(size=(200, 2)).cumsum(axis=0)
    values[20, 1] = np.nan
    _, block = step_through([Season(1), SeasonalNaive(WEEK + 2, WEEK, "weekly")], block_of(values, WEEK + 2))
    forecast = block.last + block.scale * block.members["weekly"]  # the axes are horizon, window and series
    t = 180
    for ahead in (1, 7, WEEK):
        np.testing.assert_allclose(forecast[ahead - 1, t, 0], values[t + ahead - WEEK, 0], atol=1e-5)
    # Forecasts more than a week ahead repeat the forecasts of the first week.
    np.testing.assert_allclose(forecast[WEEK + 1, t], forecast[1, t], atol=1e-5)
    # If the value one week before the target is missing, the expert forecasts the last value.
    assert forecast[7, t, 1] == values[t, 1]


@pytest.mark.parametrize(
    ("freq", "ring", "included"),
    [
        ("1h", 336, True),
        ("30m", 336, True),
        ("1h", 96, False),
        ("15m", 336, False),
        ("1d", 336, False),
        ("1mo", 336, False),
    ],
)
def test_a_short_ring_or_long_windows_exclude_weekly_naive(freq: str, ring: int, included: bool) -> None:
    network = NetworkConfig(ring=ring, lags=(1, 2))
    names = [
        expert.name for expert in experts_of(network, WindowConfig(freq=freq), OnlineConfig(experts=EXPERTS))
    ]
    assert ("weekly_naive" in names) == included
    assert names == [name for name in EXPERTS if name != "weekly_naive" or included]
