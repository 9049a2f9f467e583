"""Tests of observed covariates: their effect on forecasts, and equal inputs in training and in the stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.components.base import Block
from forecaster.components.observed_covariates import INPUTS_PER_COVARIATE, ObservedCovariates
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Features
from forecaster.evaluation.rolling import Split, rolling_forecasts
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from forecaster.training.batches import fleet_of
from forecaster.training.train import train
from tests.fleets import HOUR, START, forecaster, with_heat

LEARNED, JUDGED = 300, 100


def driven_by_heat() -> Windows:
    """Return series that depend on their observed covariate ``heat``.

    Each value is the heat of the previous window plus noise. 10 % of the heat values are missing.
    """
    rng = np.random.default_rng(0)
    heat = 20.0 + 5.0 * rng.normal(size=(LEARNED + JUDGED, 4))
    values = 100.0 + np.roll(heat, 1, axis=0) + 0.5 * rng.normal(size=heat.shape)
    heat[rng.random(heat.shape) < 0.1] = np.nan
    return Windows(tuple("abcd"), START, values, {"heat": heat})


def error_of(fleet: Windows) -> float:
    """Train on the first windows; return the mean absolute error of horizon 1 in the other windows."""
    network = NetworkConfig(hidden=16, layers=1, horizon=2, lags=(1, 2), ring=8)
    training = TrainingConfig(epochs=8, segment=16, learning_rate=0.01, refit=False, threads=1)
    learned = fleet.between(START, START + LEARNED)
    made = train(learned, network, training, online=OnlineConfig(experts=())).forecaster
    _, forecasts = advance(made, made.initial_state(), fleet)
    return float(np.abs(forecasts.values[1, LEARNED - 1 : -1, :, 0] - fleet.values[LEARNED:]).mean())


def test_an_observed_covariate_that_drives_the_series_halves_the_error() -> None:
    fleet = driven_by_heat()
    heat, alone = error_of(fleet), error_of(replace(fleet, past={}))
    assert heat < 0.5 * alone


def test_training_and_stream_compute_equal_covariate_inputs() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(30, 3)).cumsum(axis=0)
    values[:9, 1], values[:20, 2], values[12:15] = np.nan, np.nan, np.nan
    fleet = with_heat(Windows(("a", "b", "c"), START, values))
    model = forecaster(observed=("heat",))
    batch = fleet_of(fleet, model.network_config, HOUR, 8, covariates=model.covariates).batch(0)
    for column, name in enumerate(batch.series_ids):
        s = fleet.series_ids.index(name)
        begin = int((~np.isnan(values[:, s])).argmax())
        component = ObservedCovariates(("heat",), model.network_config.halflife, ring=4)
        arrays = component.init(1)
        for row in range(begin, 30):
            heat = fleet.past["heat"][row : row + 1, [s], None]
            block = Block(np.array([START + row]), values[row : row + 1, [s]], HOUR, past=heat)
            arrays, block = component.step(arrays, block)
            expected = batch.x[row - begin, column, -INPUTS_PER_COVARIATE:].numpy()
            np.testing.assert_allclose(block.observed_inputs[0, 0], expected, rtol=1e-6, atol=1e-6)


def test_shifted_and_scaled_observed_covariates_change_no_forecast() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(40, 1))))
    kelvin = replace(fleet, past={"heat": 1000.0 * fleet.past["heat"] + 273_150.0})
    one, other = (advance(model, model.initial_state(), part)[1] for part in (fleet, kelvin))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heat", [0.0, np.nan, 1e100])
def test_constant_or_missing_observed_covariates_give_finite_forecasts(heat: float) -> None:
    model = forecaster(observed=("heat",))
    values = np.random.default_rng(0).normal(size=(20, 2))
    fleet = Windows(("a", "b"), START, values, {"heat": np.full((20, 2), heat)})
    _, forecasts = advance(model, model.initial_state(), fleet)
    assert np.isfinite(forecasts.values).all()


def test_models_with_different_observed_covariates_have_different_versions() -> None:
    model = forecaster(observed=("heat",))
    again = Forecaster.from_bytes(model.to_bytes())
    assert again.covariates.features == Features(observed=("heat",))
    assert again.version == model.version != forecaster().version
    assert "past.heat.mean" in again.new_series_state(("a",), START).to_arrow().column_names


def test_observed_covariates_unknown_to_the_model_are_ignored() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(20, 1))))
    other = replace(fleet, past={"wind": fleet.past["heat"]})
    one, two = (advance(model, model.initial_state(), part)[1] for part in (other, replace(fleet, past={})))
    np.testing.assert_array_equal(one.values, two.values)


def test_rolling_forecasts_depend_on_observed_covariates() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(60, 1))))
    blocks = [
        list(rolling_forecasts(model, part, Split(30, 40, 60, 3)))
        for part in (fleet, replace(fleet, past={}))
    ]
    one, other = (np.concatenate([b.members["network"].values for b in part], axis=1) for part in blocks)
    assert np.abs(one - other).max() > 1e-3
