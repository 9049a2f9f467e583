"""Tests of seasons: the season that follows from the frequency, and the seasonal shape of a series."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.season import Season, likely_season, ring_season, ring_week
from forecaster.evaluation.baselines import seasonal_naive
from forecaster.evaluation.metrics import seasonal_scale
from forecaster.evaluation.scores import series_scale
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from tests.forecaster.components.blocks import block_of, step_through

DAY = np.array([0.0, 1.0, 5.0, 2.0, -4.0, -4.0])


@pytest.mark.parametrize(
    ("months", "season"), [(1, 12), (2, 6), (3, 4), (4, 3), (5, 1), (6, 2), (12, 1), (24, 1)]
)
def test_month_windows_that_divide_a_year_have_yearly_seasons(months: int, season: int) -> None:
    assert likely_season(Frequency(0, months)) == season


@pytest.mark.parametrize(
    ("freq_s", "season"),
    [
        (60, 1440),
        (300, 288),
        (900, 96),
        (3600, 24),
        (5 * 3600, 1),  # no whole number of 5-hour windows fills a day or a week
        (7 * 3600, 1),
        (36 * 3600, 1),  # no whole number of 36-hour windows fills a day or a week
        (2 * 86_400, 1),
        (43_200, 2),
        (86_400, 7),
        (604_800, 52),
        (52 * 604_800, 1),
    ],
)
def test_season_is_a_day_week_year_or_one_window(freq_s: int, season: int) -> None:
    """The season is the shortest of a day, a week and 52 weeks that is at least two windows long.

    It is 1 window if none is so long, or if the shortest one is not a whole number of windows.
    """
    assert likely_season(Frequency(freq_s)) == season


def test_season_longer_than_ring_or_288_windows_becomes_1() -> None:
    assert ring_season(100_000, Frequency(60)) == 1
    assert ring_season(288, Frequency(300)) == 288
    assert ring_season(287, Frequency(300)) == 1


@pytest.mark.parametrize("freq_s", [60, 5 * 3600, 36 * 3600, 2 * 86_400, 604_800])
def test_the_seasonal_naive_uses_the_likely_season_of_the_frequency(freq_s: int) -> None:
    config, season = WindowConfig(freq=f"{freq_s}s"), likely_season(Frequency(freq_s))
    values = np.random.default_rng(0).normal(size=(season + 3, 1))
    naive = seasonal_naive(Windows(("a",), 0, values), config, 1)
    assert naive["forecast"][-1][0]["q50"] == values[3 if season > 1 else -1, 0]
    assert seasonal_scale(values, season)[0] == series_scale(Windows(("a",), 0, values), config)["a"]


@pytest.mark.parametrize(
    ("freq_s", "ring", "week"),
    [
        (3600, 168, 168),
        (3600, 167, None),
        (43_200, 336, 14),
        (7 * 3600, 336, 24),  # 24 windows of 7 hours fill a week
        (5 * 3600, 336, None),
        (86_400, 336, None),  # no weekly expert: a week is already the season of daily windows
        (604_800, 336, None),
    ],
)
def test_ring_week_returns_windows_per_week_or_none(freq_s: int, ring: int, week: int | None) -> None:
    assert ring_week(ring, Frequency(freq_s)) == week


def test_ring_week_returns_none_for_monthly_windows() -> None:
    assert ring_week(336, Frequency(0, 1)) is None


def test_the_seasonal_shape_does_not_depend_on_level_and_trend() -> None:
    days = np.tile(DAY, 40)
    values = np.stack([days + 1e6, days + 0.01 * np.arange(len(days))], axis=1)
    _, block = step_through([Season(6)], block_of(values))
    found = block.shape[-1]  # axis 0: the window within the season; axis 1: the series
    np.testing.assert_allclose(found - found.mean(axis=0), np.stack([DAY] * 2, axis=1), atol=0.1)


def test_one_outlier_hardly_changes_the_seasonal_shape() -> None:
    values = np.tile(DAY, 40)[:, None] + np.random.default_rng(0).normal(0, 0.1, (240, 1))
    broken = values.copy()
    broken[150] = 1e6
    _, block = step_through([Season(6)], block_of(values))
    _, other = step_through([Season(6)], block_of(broken))
    assert np.abs(block.shape[-1] - other.shape[-1]).max() < 3


def test_the_seasonal_shape_is_learned_in_spite_of_missing_values() -> None:
    values = np.tile(DAY, 40)[:, None]
    values[np.random.default_rng(1).random(values.shape) < 0.2] = np.nan
    _, block = step_through([Season(6)], block_of(values))
    found = block.shape[-1][:, 0]
    assert np.isfinite(block.shape).all()
    np.testing.assert_allclose(found - found.mean(), DAY, atol=1.0)


def test_season_length_1_keeps_no_state_and_zero_shape() -> None:
    after, block = step_through([Season(1)], block_of(np.arange(10.0)[:, None]))
    assert after["season"] == {}
    assert not block.shape.any()
