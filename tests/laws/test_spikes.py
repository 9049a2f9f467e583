"""Law: about a day after a spike (wrong values), forecasts are nearly the same as without the spike."""

from __future__ import annotations

from itertools import product

import numpy as np

from forecaster.arrays import Floats
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig
from tests.fleets import START
from tests.kinds import kinds

AT, WINDOWS = 200, 600
model = Forecaster.untrained(NetworkConfig(hidden=8, horizon=24), WindowConfig())


def forecast(values: Floats) -> Floats:
    """Step `model` through ``values`` ``[T, S]``; return its forecasts ``[Q, T, S, N]``.

    Q, T, S and N are the numbers of quantiles, windows, series and horizons.
    """
    state = model.new_series_state(tuple(str(s) for s in range(values.shape[1])), START)
    return advance_in_place(model, state, values, START).values


def test_forecasts_return_to_the_constant_level_after_a_spike() -> None:
    cases = list(product((0.0, 1.0, -300.0, 1e9), (1e-3, 0.3, -40.0, 1e6), (1e-15, 1.0, 1e15), (1, 2, 30)))
    level, spike, unit, lasts = np.array(cases).T
    values = np.tile(level, (WINDOWS, 1))
    at = np.arange(WINDOWS)[:, None]
    values += np.where((at >= AT) & (at < AT + lasts), spike * np.maximum(np.abs(level), 1.0), 0.0)
    after = forecast(values * unit)[:, AT + 31 :] / unit[:, None]
    np.testing.assert_allclose(after, np.broadcast_to(level[:, None], after.shape), rtol=1e-6, atol=1e-9)


def test_a_constant_series_is_forecast_exactly_after_a_step() -> None:
    values = np.where(np.arange(WINDOWS) < AT, 5.0, 500.0)[:, None]
    after = forecast(values)
    np.testing.assert_allclose(after[:, :AT], 5.0, rtol=1e-6)
    np.testing.assert_allclose(after[:, AT + 1 :], 500.0, rtol=1e-6)


def test_forecasts_adapt_when_a_constant_series_begins_to_change() -> None:
    rng = np.random.default_rng(0)
    values = np.full((WINDOWS, 1), 3.0)
    values[AT:, 0] += rng.normal(size=WINDOWS - AT)
    low, middle, high = forecast(values)[:, AT + 168 : -1, 0, 0]
    actual = values[AT + 169 :, 0]
    assert 0.8 < ((low < actual) & (actual < high)).mean() < 0.98
    assert np.abs(actual - middle).mean() < 1.1


def test_intervals_recover_soon_after_a_spike() -> None:
    values = kinds(WINDOWS)["day"][:, None]
    with_spike = values.copy()
    with_spike[AT] = 1e6
    clean, after = forecast(values)[:, AT + 25 :], forecast(with_spike)[:, AT + 25 :]
    assert np.median(np.abs(after[1] - clean[1])) < 1.0
    assert np.mean(after[2] - after[0]) < 1.5 * np.mean(clean[2] - clean[0])
