"""Tests of training on unusual data: constant, short or empty series, outliers, and extreme values."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.stepping.advance import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from schemas.errors import DataError
from schemas.observations import LARGEST
from tests.forecaster.brief import BRIEF, NETWORK, fleet_of, sines, train_briefly, weights


def test_constant_series_give_zero_skill_and_finite_network_weights() -> None:
    trained = train_briefly(fleet_of(np.full((100, 3), 7.0)))
    assert [epoch["validation_skill"] for epoch in trained.history] == [0.0, 0.0]
    assert np.isfinite(weights(trained)).all()


@pytest.mark.parametrize("length", [2, 3, 6, 7])
def test_training_on_very_short_series_changes_the_weights(length: int) -> None:
    trained = train_briefly(sines(length, 4), validation=0.0)
    assert np.isfinite(weights(trained)).all()
    assert all(np.isfinite(epoch["train_loss"]) and epoch["train_loss"] > 0 for epoch in trained.history)
    before = train_briefly(sines(length, 4), validation=0.0, learning_rate=1e-12, epochs=1)
    assert np.abs(weights(trained) - weights(before)).max() > 1e-5


def test_training_on_short_and_empty_series_gives_finite_losses() -> None:
    values = sines(100, 6).values
    values[:97, 1] = np.nan  # series 1 begins in the held-out windows
    values[:70, 2] = np.nan
    values[:, 3] = np.nan
    values[:, 4] = 5.0
    values[1:, 5] = np.nan
    trained = train_briefly(fleet_of(values))
    assert np.isfinite(weights(trained)).all()
    assert np.isfinite([epoch["validation_loss"] for epoch in trained.history]).all()


@pytest.mark.parametrize("windows", [0, 1])
def test_training_on_less_than_two_windows_raises_an_error(windows: int) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        train_briefly(sines(windows, 3))


def test_training_is_refused_if_all_values_are_in_held_out_windows() -> None:
    values = sines(100, 3).values
    values[:90] = np.nan
    with pytest.raises(DataError, match=r"held-out .* training.validation"):
        train_briefly(fleet_of(values))


def test_training_with_one_outlier_gives_finite_weights() -> None:
    values = sines(150, 8).values
    broken = values.copy()
    broken[60, 0] = 1e15
    assert np.isfinite(weights(train_briefly(fleet_of(broken)))).all()


@pytest.mark.parametrize(("at", "validation"), [(60, 0.0), (60, 0.2), (97, 0.2)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_the_training_error_names_a_series_with_infinite_loss(
    at: int, validation: float, value: float
) -> None:
    values = sines(100, 6).values
    values[at, 4] = value
    values[at - 1, 4] = -value
    with pytest.raises(DataError, match="'s4'") as error:
        train_briefly(fleet_of(values), validation=validation)
    assert "\n" not in str(error.value)


def test_the_error_for_diverging_weights_names_the_learning_rate() -> None:
    values = sines(100, 6).values
    values[50:, 2] += 1e12 * np.sign(np.sin(np.arange(50)))
    # The learning rate is above its largest valid value, but `model_copy` does not validate settings.
    too_fast = BRIEF.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(DataError, match=r"'s2'.* training\.learning_rate"):
        train(fleet_of(values), NETWORK, too_fast, WindowConfig())


def test_the_largest_valid_values_give_finite_weights_and_forecasts() -> None:
    values = sines(100, 6).values
    values[:, 0] = LARGEST * np.sign(np.sin(np.arange(100)))
    values[:, 1] = LARGEST
    values[60, 2] = -LARGEST
    trained = train_briefly(fleet_of(values))
    assert np.isfinite(weights(trained)).all()
    assert np.isfinite([list(epoch.values()) for epoch in trained.history]).all()
    _, forecasts = advance(trained.forecaster, trained.forecaster.initial_state(), fleet_of(values))
    assert np.isfinite(forecasts.values).all()


@pytest.mark.parametrize("windows", [3, 40, 128])
def test_training_succeeds_on_series_of_3_to_128_windows(windows: int) -> None:
    values = np.random.default_rng(0).normal(size=(windows, 1))
    network = NetworkConfig(hidden=4, layers=1, horizon=2, lags=(1,), ring=4)
    trained = train(Windows(("a",), 0, values), network, TrainingConfig(epochs=1))
    assert len(trained.history) == 1
