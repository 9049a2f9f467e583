"""What a network makes of a covariate that is observed beside the value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.components.base import Block
from forecaster.components.observed_covariates import INPUTS_EACH, PastCovariates
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Features
from forecaster.evaluation.rolling import Split, rolled
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.time.windows import Windows
from forecaster.training.batches import fleet_of
from forecaster.training.train import train
from tests.fleets import HOUR, START, forecaster, with_heat

LEARNED, JUDGED = 300, 100


def driven() -> Windows:
    """Values that are what the heat was a window before, and some noise; a tenth of the heat is missing."""
    chance = np.random.default_rng(0)
    heat = 20.0 + 5.0 * chance.normal(size=(LEARNED + JUDGED, 4))
    values = 100.0 + np.roll(heat, 1, axis=0) + 0.5 * chance.normal(size=heat.shape)
    heat[chance.random(heat.shape) < 0.1] = np.nan
    return Windows(tuple("abcd"), START, values, {"heat": heat})


def error_of(fleet: Windows) -> float:
    """Mean absolute error one window ahead, of windows that were not learned from."""
    network = NetworkConfig(hidden=16, layers=1, horizon=2, lags=(1, 2), ring=8)
    training = TrainingConfig(epochs=8, segment=16, learning_rate=0.01, refit=False, threads=1)
    learned = fleet.between(START, START + LEARNED)
    made = train(learned, network, training, online=OnlineConfig(experts=())).forecaster
    _, said = advance(made, made.initial_state(), fleet)
    return float(np.abs(said.values[1, LEARNED - 1 : -1, :, 0] - fleet.values[LEARNED:]).mean())


def test_a_network_that_reads_what_drives_a_series_is_far_better_than_one_that_does_not() -> None:
    fleet = driven()
    beside, alone = error_of(fleet), error_of(replace(fleet, past={}))
    assert beside < 0.5 * alone


def test_what_training_reads_of_a_covariate_is_what_the_stream_does() -> None:
    chance = np.random.default_rng(4)
    values = chance.normal(size=(30, 3)).cumsum(axis=0)
    values[:9, 1], values[:20, 2], values[12:15] = np.nan, np.nan, np.nan
    fleet = with_heat(Windows(("a", "b", "c"), START, values))
    model = forecaster(observed=("heat",))
    batch = fleet_of(fleet, model.network_config, HOUR, 8, covariates=model.covariates).batch(0)
    for place, name in enumerate(batch.series_ids):
        s = fleet.series_ids.index(name)
        begin = int((~np.isnan(values[:, s])).argmax())
        part = PastCovariates(("heat",), model.network_config.halflife, ring=4)
        own = part.init(1)
        for row in range(begin, 30):
            beside = fleet.past["heat"][row : row + 1, [s], None]
            block = Block(np.array([START + row]), values[row : row + 1, [s]], HOUR, past=beside)
            own, block = part.step(own, block)
            expected = batch.x[row - begin, place, -INPUTS_EACH:].numpy()
            np.testing.assert_allclose(block.past_inputs[0, 0], expected, rtol=1e-6, atol=1e-6)


def test_forecasts_do_not_depend_on_the_unit_of_a_covariate() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(40, 1))))
    kelvin = replace(fleet, past={"heat": 1000.0 * fleet.past["heat"] + 273_150.0})
    one, other = (advance(model, model.initial_state(), part)[1] for part in (fleet, kelvin))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heat", [0.0, np.nan, 1e100])
def test_a_covariate_that_never_changes_or_never_comes_makes_no_nan(heat: float) -> None:
    model = forecaster(observed=("heat",))
    values = np.random.default_rng(0).normal(size=(20, 2))
    fleet = Windows(("a", "b"), START, values, {"heat": np.full((20, 2), heat)})
    _, said = advance(model, model.initial_state(), fleet)
    assert np.isfinite(said.values).all()


def test_a_covariate_is_part_of_the_weights_and_named_with_them() -> None:
    model = forecaster(observed=("heat",))
    again = Forecaster.from_bytes(model.to_bytes())
    assert again.covariates.features == Features(observed=("heat",))
    assert again.version == model.version != forecaster().version
    assert "past.heat.mean" in again.unseen(("a",), START).to_arrow().column_names


def test_windows_of_other_covariates_are_stepped_with_those_that_were_learned_from_missing() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(20, 1))))
    other = replace(fleet, past={"wind": fleet.past["heat"]})
    one, two = (advance(model, model.initial_state(), part)[1] for part in (other, replace(fleet, past={})))
    np.testing.assert_array_equal(one.values, two.values)


def test_a_rolling_evaluation_reads_covariates() -> None:
    model = forecaster(observed=("heat",))
    fleet = with_heat(Windows(("a",), START, np.random.default_rng(0).normal(size=(60, 1))))
    blocks = [list(rolled(model, part, Split(30, 40, 60, 3))) for part in (fleet, replace(fleet, past={}))]
    one, other = (np.concatenate([b.members["network"].values for b in part], axis=1) for part in blocks)
    assert np.abs(one - other).max() > 1e-3
