"""Tests of the scores of forecast frames: errors, calibration and charts, and the simple baselines."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.baselines import persistence, seasonal_naive
from forecaster.evaluation.scores import calibration, errors, fans, keep_common, score, series_scale
from forecaster.forecasts import Forecasts
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.checking import checked
from schemas.scores import Score
from tests.fleets import HOUR, HOUR_US, START, fleets

HORIZON = 3
HOURLY = WindowConfig()
EVENTS = WindowConfig(aggregate="count", empty="zero")


def forecasts_of(windows: Windows, seed: int = 0) -> Forecasts:
    """Return random forecasts of three quantiles, which do not depend on the values of the windows."""
    chance = np.random.default_rng(seed)
    shape = (*windows.values.shape, HORIZON)
    middle, width = chance.normal(size=shape), chance.random(shape)
    values = np.stack([middle - width, middle, middle + width])
    issued = np.ones(windows.values.shape, bool)
    return Forecasts("m", HOUR, (0.1, 0.5, 0.9), windows.series_ids, windows.start, values, issued)


def looped_pairs(windows: Windows, made: Forecasts) -> dict[tuple[str, int, int], tuple[float, list[float]]]:
    """Pair actuals with quantiles in plain loops, by (series, issuing window, horizon).

    A forecast without an actual has no pair.
    """
    pairs = {}
    for s, name in enumerate(windows.series_ids):
        for t in range(len(windows.values)):
            for n in range(1, HORIZON + 1):
                if t + n < len(windows.values) and not math.isnan(windows.values[t + n, s]):
                    quantiles = [float(made.values[q, t, s, n - 1]) for q in range(3)]
                    pairs[name, windows.start + t, n] = (float(windows.values[t + n, s]), quantiles)
    return pairs


@given(windows=fleets(series=3, windows=12))
def test_each_forecast_is_paired_with_the_actual_of_its_window(windows: Windows) -> None:
    made = forecasts_of(windows)
    found = errors(made.frame(), windows, HOURLY)
    rows = {
        (row["series_id"], round(row["issued_at"].timestamp()) // 3600 - 1, row["horizon"]): (
            row["observed"],
            [row["q10"], row["q50"], row["q90"]],
        )
        for row in found.to_dicts()
    }
    assert rows == looped_pairs(windows, made)


@given(windows=fleets(series=3, windows=12), seed=st.integers(0, 100))
def test_scores_average_scaled_errors_over_series(windows: Windows, seed: int) -> None:
    made = forecasts_of(windows, seed)
    unit = series_scale(windows, HOURLY)
    pairs = looped_pairs(windows, made)
    found = score("m", errors(made.frame(), windows, HOURLY), unit)
    assert found["horizon"].to_list() == sorted({n for _, _, n in pairs})
    for row in found.to_dicts():
        mae, pinball, inside = [], [], []
        for name in windows.series_ids:
            own = [pair for (s, _, n), pair in pairs.items() if (s, n) == (name, row["horizon"])]
            if not own:
                continue
            mae.append(np.mean([abs(y - q[1]) for y, q in own]) / unit[name])
            losses = [
                np.mean(
                    [max(p * (y - v), (p - 1) * (y - v)) for p, v in zip((0.1, 0.5, 0.9), q, strict=True)]
                )
                for y, q in own
            ]
            pinball.append(np.mean(losses) / unit[name])
            inside.append(np.mean([q[0] <= y <= q[2] for y, q in own]))
        assert row["count"] == sum(n == row["horizon"] for _, _, n in pairs)
        assert row["mae"] == pytest.approx(np.mean(mae), rel=1e-9)
        assert row["pinball"] == pytest.approx(np.mean(pinball), rel=1e-9)
        assert row["coverage"] == pytest.approx(np.mean(inside))


def test_scale_is_seasonal_naive_error_or_1_without_changes() -> None:
    day = np.tile(np.arange(24.0), 2)
    rising = day + np.repeat([0.0, 3.0], 24)
    values = np.stack([rising, np.full(48, 7.0), np.full(48, np.nan)], axis=1)
    assert series_scale(Windows(("a", "b", "c"), START, values), HOURLY) == {"a": 3.0, "b": 1.0, "c": 1.0}


def test_calibration_counts_actuals_at_or_below_each_quantile() -> None:
    frame = pl.DataFrame(
        {
            "series_id": ["a", "a", "b", "b"],
            "observed": [1.0, 3.0, 0.0, 5.0],
            "q50": [2.0, 2.0, 0.0, 1.0],
            "q90": [3.0, 3.0, 6.0, 6.0],
        }
    )
    assert calibration(frame).rows() == [(0.5, 0.5), (0.9, 1.0)]


def test_matching_two_frames_keeps_only_their_common_forecasts() -> None:
    windows = Windows(("a", "b"), START, np.arange(20.0).reshape(10, 2))
    all_errors = errors(persistence(windows, HOURLY, HORIZON), windows, HOURLY)
    part = all_errors.filter((pl.col("series_id") == "a") & (pl.col("horizon") == 2))
    keys = ["series_id", "issued_at", "horizon"]
    assert keep_common(part, all_errors).select(keys).sort(keys).equals(part.select(keys).sort(keys))


def test_fans_cover_consecutive_windows_around_the_middle_issue_time() -> None:
    windows = Windows(("a", "b"), START, np.random.default_rng(0).normal(size=(400, 2)))
    found = fans(errors(forecasts_of(windows).frame(), windows, HOURLY), "b", HOUR)
    assert found["series_id"].unique().to_list() == ["b"]
    targets = (found["target_at"].dt.epoch("us").sort() // HOUR_US - START).to_list()
    assert targets == list(range(targets[0], targets[0] + 28 * HORIZON))
    assert targets[0] > 100
    assert targets[-1] < 300


def test_a_fan_plot_of_five_windows_shows_two_forecasts() -> None:
    windows = Windows(("a",), START, np.arange(5.0)[:, None])
    found = errors(forecasts_of(windows).frame(), windows, HOURLY)
    assert fans(found, "a", HOUR)["issued_at"].n_unique() == 2
    assert fans(found, "nobody", HOUR).is_empty()


@given(windows=fleets(series=3, windows=60))
def test_persistence_and_seasonal_naive_repeat_earlier_values(windows: Windows) -> None:
    filled = windows.values.copy()
    for t in range(1, len(filled)):
        filled[t] = np.where(np.isnan(filled[t]), filled[t - 1], filled[t])
    for frame, lag_of in ((persistence, lambda n: 0), (seasonal_naive, lambda n: 24 - n)):
        for row in frame(windows, HOURLY, HORIZON).to_dicts():
            s = windows.series_ids.index(row["series_id"])
            t = round(row["issued_at"].timestamp()) // 3600 - 1 - windows.start
            for one in row["forecast"]:
                past = t - lag_of(one["horizon"])
                if past < 0 or math.isnan(filled[past, s]):
                    assert one["q50"] is None
                else:
                    assert one["q50"] == pytest.approx(filled[past, s])


@given(windows=fleets(series=3, windows=60))
def test_mae_and_pinball_of_every_baseline_are_finite(windows: Windows) -> None:
    for baseline in (persistence, seasonal_naive):
        found = errors(baseline(windows, HOURLY, HORIZON), windows, HOURLY)
        assert found.null_count().sum_horizontal().item() == 0
        scores = checked(score("b", found, series_scale(windows, HOURLY)), Score.to_schema(), "scores")
        assert scores["mae"].is_finite().all()
        assert scores["pinball"].is_finite().all()


# --- the setting empty = "zero": a live series has the value 0 in a window without rows


@given(windows=fleets(series=3, windows=12))
def test_setting_empty_to_zero_scores_empty_windows_as_zeros(windows: Windows) -> None:
    made = forecasts_of(windows)
    zeros = windows.values.copy()
    for s in range(zeros.shape[1]):
        seen = np.flatnonzero(~np.isnan(zeros[:, s]))
        if len(seen):
            zeros[seen[0] :, s] = np.nan_to_num(zeros[seen[0] :, s])
    filled = Windows(windows.series_ids, windows.start, zeros)
    keys = ["series_id", "issued_at", "horizon"]
    assert (
        errors(made.frame(), windows, EVENTS)
        .sort(keys)
        .equals(errors(made.frame(), filled, HOURLY).sort(keys))
    )
    assert series_scale(windows, EVENTS) == series_scale(filled, HOURLY)
    for baseline in (persistence, seasonal_naive):
        assert baseline(windows, EVENTS, HORIZON).equals(baseline(filled, HOURLY, HORIZON))


def test_zero_filling_scores_trailing_empty_windows_as_zeros() -> None:
    windows = Windows(("a", "b"), START, np.array([[3.0, 1.0], [np.nan, 1.0], [np.nan, 1.0]]))
    naive = errors(persistence(windows, EVENTS, 1), windows, EVENTS).filter(pl.col("series_id") == "a")
    assert naive.sort("issued_at").select("observed", "q50").rows() == [(0.0, 3.0), (0.0, 0.0)]
