from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.chain import experts_of
from forecaster.components.experts.naive import SeasonalNaive
from forecaster.components.season import Season
from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig
from forecaster.time.window_config import WindowConfig
from tests.forecaster.components.blocks import block_of, through

WEEK = 168


def test_a_weekly_naive_says_what_came_a_week_before_the_window_that_it_is_about() -> None:
    values = np.random.default_rng(0).normal(size=(200, 2)).cumsum(axis=0)
    values[20, 1] = np.nan
    _, block = through([Season(1), SeasonalNaive(WEEK + 2, WEEK, "weekly")], block_of(values, WEEK + 2))
    said = block.last + block.scale * block.members["weekly"]  # [N, T, S]
    t = 180
    for ahead in (1, 7, WEEK):
        np.testing.assert_allclose(said[ahead - 1, t, 0], values[t + ahead - WEEK, 0], atol=1e-5)
    np.testing.assert_allclose(said[WEEK + 1, t], said[1, t], atol=1e-5)  # two weeks before: the same week
    assert said[7, t, 1] == values[t, 1]  # a week before there was nothing: the last value


@pytest.mark.parametrize(
    ("freq", "ring", "there"),
    [
        ("1h", 336, True),
        ("30m", 336, True),
        ("1h", 96, False),
        ("15m", 336, False),
        ("1d", 336, False),
        ("1mo", 336, False),
    ],
)
def test_a_weekly_naive_is_left_out_where_the_ring_holds_no_week_or_a_week_is_the_season(
    freq: str, ring: int, there: bool
) -> None:
    network = NetworkConfig(ring=ring, lags=(1, 2))
    names = [
        expert.name for expert in experts_of(network, WindowConfig(freq=freq), OnlineConfig(experts=EXPERTS))
    ]
    assert ("weekly_naive" in names) == there
    assert names == [name for name in EXPERTS if name != "weekly_naive" or there]
