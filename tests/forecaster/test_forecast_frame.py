"""Tests of `forecast`, which trains on a frame of rows and forecasts each series after its last value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.evaluation.backtest import backtest
from forecaster.forecast_frame import forecast, forecast_with, select, train_and_forecast
from forecaster.forecasts import flat
from forecaster.stepping.advance import advance
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from schemas.errors import ConfigError, DataError
from tests.fleets import HOUR, START, forecaster

TINY = NetworkConfig(hidden=4, layers=1, horizon=3, ring=8, lags=(1, 2))


def waves(length: int, ends: tuple[int, ...]) -> Windows:
    """Return a sine wave for each ``end`` in ``ends``; its values from row ``end`` on are missing."""
    values = np.sin(np.arange(length)[:, None] / 3 + np.arange(len(ends)))
    values[np.arange(length)[:, None] >= np.array(ends)] = np.nan
    return Windows(tuple(f"s{number}" for number in range(len(ends))), START, values)


@given(st.integers(2, 600), st.lists(st.integers(1, 600), min_size=1, max_size=3))
def test_each_series_is_forecast_from_its_last_observed_window(length: int, ends: list[int]) -> None:
    windows = waves(length, tuple(min(end, length) for end in ends))
    model = forecaster()
    found = forecast_with(model, windows).forecasts
    for column, name in enumerate(windows.series_ids):
        last = int(np.flatnonzero(~np.isnan(windows.values[:, column]))[-1])
        _, alone = advance(model, model.initial_state(), windows.rows(0, last + 1).of_series([column]))
        expected = flat(alone.latest().frame(), HOUR)
        own = found.filter(pl.col("series_id") == name)
        assert own.select("timestamp", "horizon").equals(expected.select("timestamp", "horizon"))
        np.testing.assert_allclose(
            own.select(pl.col(pl.Float64)).to_numpy(),
            expected.select(pl.col(pl.Float64)).to_numpy(),
            atol=1e-5,
        )


def test_flat_frame_timestamps_are_the_starts_of_forecast_windows() -> None:
    """In a flat frame, each row is the forecast for one horizon."""
    freq = Frequency.parse("1mo")
    nested = pl.DataFrame(
        {
            "series_id": ["a"],
            "issued_at": [datetime(2024, 12, 1, tzinfo=UTC)],
            "forecast": [[{"horizon": h, "q2.5": 0.0, "q5": 1.0, "q50": 2.0} for h in (1, 2)]],
        },
        schema_overrides={"issued_at": pl.Datetime("us", "UTC")},
    )
    found = flat(nested, freq)
    assert found.columns == ["series_id", "timestamp", "horizon", "forecast", "q2.5", "q05"]
    assert found["timestamp"].to_list() == [
        datetime(2024, 12, 1, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=UTC),
    ]
    assert found["forecast"].to_list() == [2.0, 2.0]


def test_forecast_trains_on_a_frame_and_forecasts_its_series() -> None:
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "series_id": ["a"] * 120 + ["b"] * 100,
            "timestamp": [begin + timedelta(days=k) for k in (*range(120), *range(100))],
            "value": [float(k % 7) for k in (*range(120), *range(100))],
        }
    )
    found = forecast(frame, horizon=2, quantiles=(0.1, 0.9))
    assert found.columns == ["series_id", "timestamp", "horizon", "forecast", "q10", "q90"]
    assert found.select("series_id", "timestamp").rows() == [
        (name, begin + timedelta(days=end + k)) for name, end in (("a", 120), ("b", 100)) for k in range(2)
    ]
    assert found["forecast"].is_between(found["q10"], found["q90"]).all()
    expected = np.array([120 % 7, 121 % 7, 100 % 7, 101 % 7])
    assert np.abs(found["forecast"].to_numpy() - expected).max() < 1.5


def test_the_backtest_scores_the_model_from_before_the_refit() -> None:
    windows, training = waves(200, (200, 200)), TrainingConfig(epochs=1, segment=16)
    found = train_and_forecast(windows, WindowConfig(), TINY, training)
    trained = train(windows, TINY, training)
    assert found.forecaster.version == trained.forecaster.version != trained.chosen.version
    expected = backtest(trained.chosen, windows, first=180)
    assert expected is not None
    assert found.scores.equals(expected.comparison.scores)


def test_a_fleet_too_short_for_a_backtest_has_no_scores() -> None:
    found = forecast_with(forecaster(), waves(1, (1,)))
    assert found.scores.is_empty()
    assert len(found.forecasts) == 3


def test_selecting_a_missing_horizon_or_quantile_is_refused() -> None:
    found = forecast_with(forecaster(), waves(30, (30,))).forecasts
    assert select(found, 2, (0.95, 0.5)).columns == ["series_id", "timestamp", "horizon", "forecast", "q95"]
    with pytest.raises(ConfigError, match="forecasts 3 windows ahead, and 4 are wanted"):
        select(found, 4, ())
    with pytest.raises(ConfigError, match=r"no quantile 0.2: choose from"):
        select(found, 3, (0.2,))


def test_forecast_refuses_a_frame_with_an_invalid_row() -> None:
    frame = pl.DataFrame({"series_id": ["a"], "timestamp": ["2024-01-01"], "value": ["many"]})
    with pytest.raises(DataError, match=r"the frame: row 1: .*correct it, or leave it out"):
        forecast(frame)
