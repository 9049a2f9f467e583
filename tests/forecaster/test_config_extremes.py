"""Tests of extreme settings.

A model with accepted settings issues finite forecasts, or its training raises `DataError`. Settings beyond
their upper bounds are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.model import Forecaster
from forecaster.setting_types import Settings
from forecaster.stepping.advance import advance
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from schemas.errors import DataError

TINY, HUGE = 5e-324, 1.7e308
levels = st.floats(0, 1, exclude_min=True, exclude_max=True)
network_settings = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(["lstm", "gru", "rnn"]),
        "hidden": st.sampled_from([1, 2, 7]),
        "layers": st.integers(1, 4),
        "horizon": st.sampled_from([1, 2, 5, 25, 60]),
        "quantiles": st.one_of(
            st.sampled_from([(0.5,), (TINY, 0.5), (0.5, 1 - 2**-53), (0.499999999999, 0.5)]),
            st.sets(levels, max_size=6).map(lambda found: tuple(sorted({*found, 0.5}))),
        ),
        "linear": st.booleans(),
        "ring": st.sampled_from([0, 1, 2, 24, 48, 400]),
        "halflife": st.sampled_from([1, 2, 168, 10**9]),
        "decoder": st.booleans(),
    }
)
window_settings = st.fixed_dictionaries(
    {
        "freq": st.sampled_from(
            ["1s", "7s", "1m", "5m", "1h", "5h", "12h", "36h", "1d", "1w", "1mo", "1q", "1y"]
        ),
        "empty": st.sampled_from(["missing", "zero"]),
        "max_gap": st.sampled_from([1, 3, 672, 10**9]),
    }
)
training_settings = st.fixed_dictionaries(
    {
        "segment": st.sampled_from([2, 3, 50, 10**9]),
        "learning_rate": st.sampled_from([TINY, 1e-3, 1.0, 100.0]),
        "weight_decay": st.sampled_from([0.0, 1e-2, 100.0]),
        "clip_norm": st.sampled_from([TINY, 1.0, HUGE]),
        "dropout": st.sampled_from([0.0, 0.5, 1 - 2**-53]),
        "batch_series": st.sampled_from([1, 2, 10**9]),
        "validation": st.sampled_from([0.0, TINY, 0.1, 0.5, 0.89]),
        "backtest": st.sampled_from([0.0, TINY, 0.1, 0.3]),
        "refit": st.booleans(),
        "seed": st.sampled_from([0, 2**32, 2**63 - 1]),
    }
).filter(lambda found: found["validation"] + found["backtest"] < 0.95)
online_settings = st.fixed_dictionaries(
    {
        "experts": st.sets(st.sampled_from(EXPERTS)).map(lambda found: tuple(sorted(found))),
        "intervals": st.booleans(),
        "alarms_per_week": st.sampled_from([0.0, TINY, 0.5, 1.0, 1e6, HUGE]),
    }
)


def random_walks(start: int, windows: int, seed: int) -> Windows:
    values = 10.0 + np.random.default_rng(seed).normal(size=(windows, 3)).cumsum(axis=0)
    values[: windows // 2, 2] = np.nan
    values[5:8, 1] = np.nan
    return Windows(("a", "b", "c"), start, values)


@settings(max_examples=6)
@given(network=network_settings, windows=window_settings, training=training_settings, online=online_settings)
@example({"quantiles": (0.5,)}, {}, {}, {})
@example({"quantiles": (0.5,)}, {}, {}, {"experts": (), "intervals": True})
def test_accepted_configurations_give_finite_forecasts_or_a_data_error(
    network: dict[str, Any], windows: dict[str, Any], training: dict[str, Any], online: dict[str, Any]
) -> None:
    lags = tuple(lag for lag in (1, 2, 24) if lag <= network.get("ring", 24))
    small: dict[str, Any] = {"hidden": 2, "layers": 1, "horizon": 2, "ring": 24}
    config = NetworkConfig.model_validate(small | {"lags": lags} | network)
    window_config = WindowConfig.model_validate(windows)
    start = Frequency.parse(window_config.freq).window_of(1_700_000_000_000_000)
    one_epoch = TrainingConfig.model_validate(training | {"epochs": 1, "threads": 1})
    learned = random_walks(int(start), 60, 0)
    try:
        made = train(learned, config, one_epoch, window_config, online=OnlineConfig.model_validate(online))
    except DataError:
        # This error is expected if the loss overflows, or if no window is left to train on.
        return
    model = Forecaster.from_bytes(made.forecaster.to_bytes())
    state, _ = advance(model, model.initial_state(), learned)
    _, forecasts = advance(model, state, random_walks(learned.stop, 50, 1))
    issued = forecasts.values[:, forecasts.issued]
    assert issued.shape == (len(config.quantiles), forecasts.issued.sum(), config.horizon)
    assert forecasts.issued.sum() == 150 or window_config.max_gap <= 3
    assert np.isfinite(issued).all()
    assert (np.diff(issued, axis=0) >= 0).all()
    assert len(forecasts.frame()) == len(forecasts)


@pytest.mark.parametrize(
    ("config", "too_large"),
    [
        (NetworkConfig, {"halflife": 10**9 + 1}),
        (WindowConfig, {"max_gap": 10**30}),
        (TrainingConfig, {"learning_rate": float("inf")}),
        (TrainingConfig, {"learning_rate": 1e308}),
        (TrainingConfig, {"weight_decay": 1e308}),
        (TrainingConfig, {"seed": 2**64}),
        (TrainingConfig, {"threads": 10**12}),
    ],
)
def test_settings_beyond_their_upper_bounds_are_refused(
    config: type[Settings], too_large: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(too_large))):
        config.model_validate(too_large)
