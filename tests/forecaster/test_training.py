from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from forecaster import training as fitting
from forecaster.components.network import Network
from forecaster.config import NetworkConfig, TrainingConfig, WindowConfig
from forecaster.segments import Batch, Fleet
from forecaster.segments import fleet_of as fleet_of_windows
from forecaster.stepping import advance
from forecaster.training import Epoch, Trained, train
from forecaster.windows import Windows
from schemas.errors import DataError
from schemas.observations import LARGEST
from tests.fleets import HOUR, START

NETWORK = NetworkConfig(hidden=8, layers=1, horizon=6, lags=(1, 2, 3), ring=8)
BRIEF = TrainingConfig(epochs=2, segment=16, validation=0.2, backtest=0.0, refit=False)


def fleet_of(values: NDArray[np.float64]) -> Windows:
    return Windows(tuple(f"s{i}" for i in range(values.shape[1])), START, values)


def sines(windows: int, series: int = 24, seed: int = 0) -> Windows:
    """Daily waves of any phase, height and level, with noise a tenth as high."""
    chance = np.random.default_rng(seed)
    phase, level = chance.uniform(0, 2 * np.pi, series), chance.normal(0, 100, series)
    height = 10.0 ** chance.uniform(-1, 2, series)
    t = np.arange(windows)[:, None]
    noise = 0.1 * chance.normal(size=(windows, series))
    return fleet_of(level + height * (np.sin(2 * np.pi * t / 24 + phase) + noise))


def brief(windows: Windows | None = None, **changes: object) -> Trained:
    training = TrainingConfig.model_validate(BRIEF.model_dump() | changes)
    return train(windows or sines(100, 6), NETWORK, training, WindowConfig())


def weights(trained: Trained) -> NDArray[np.float32]:
    parts = trained.forecaster.network.state_dict().values()
    return np.concatenate([part.numpy().reshape(-1) for part in parts])


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    one, other = brief(seed=7), brief(seed=7)
    np.testing.assert_array_equal(weights(one), weights(other))
    assert one.forecaster.version == other.forecaster.version
    for a, b in zip(one.history, other.history, strict=True):
        assert a | {"seconds": 0.0} == b | {"seconds": 0.0}


def test_another_seed_gives_other_weights() -> None:
    assert np.abs(weights(brief(seed=1)) - weights(brief(seed=2))).max() > 1e-3


def test_training_leaves_the_chance_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    brief()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("windows", [40, 1])
def test_training_gives_back_the_threads_that_it_took(windows: int) -> None:
    before = torch.get_num_threads()
    told: list[int] = []
    with suppress(DataError):
        train(
            sines(windows, 3),
            NETWORK,
            TrainingConfig(epochs=1, threads=before + 2, refit=False),
            on_epoch=lambda epoch: told.append(torch.get_num_threads()),
        )
    assert torch.get_num_threads() == before
    assert told == ([before + 2] if windows > 1 else [])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_trained_network_beats_persistence_on_waves_that_it_has_not_seen(cell: str) -> None:
    network = NetworkConfig.model_validate(NETWORK.model_dump() | {"cell": cell, "hidden": 16})
    training = TrainingConfig(epochs=6, segment=24, learning_rate=1e-2)
    model = train(sines(240), network, training, WindowConfig()).forecaster

    fresh = sines(200, seed=1)
    _, forecasts = advance(model, model.initial_state(), fresh)
    middle = forecasts.values[1]
    spread = fresh.values.std(axis=0)
    for horizon in (1, 3, 6):
        came = fresh.values[100 + horizon :]
        last = fresh.values[100:-horizon]
        error = (np.abs(middle[100:-horizon, :, horizon - 1] - came) / spread).mean()
        persistence = (np.abs(last - came) / spread).mean()
        assert error < 0.7 * persistence, f"horizon {horizon}: {error} against {persistence}"


def test_training_lowers_the_loss_that_it_reports() -> None:
    told: list[Epoch] = []
    training = TrainingConfig(epochs=5, segment=16, learning_rate=1e-2, validation=0.2)
    trained = train(sines(150, 8), NETWORK, training, WindowConfig(), told.append)
    history = trained.history
    assert told == history + trained.refit_history
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert history[-1]["validation_skill"] > history[0]["validation_skill"]
    assert all(epoch["seconds"] > 0 for epoch in history)


def turning() -> Windows:
    """What rises while it is learned from falls from then on: the more was learned, the worse."""
    t = np.arange(100.0)[:, None]
    return fleet_of(np.minimum(t, 160 - t) + np.random.default_rng(0).normal(size=(100, 6)))


@pytest.mark.parametrize(
    ("windows", "rate"), [(turning(), 1e-2), (sines(100, 6), 1e-2), (sines(100, 6), 0.3)]
)
def test_the_weights_are_those_of_the_best_epoch_or_before_the_first(windows: Windows, rate: float) -> None:
    training = TrainingConfig.model_validate(BRIEF.model_dump() | {"epochs": 5, "learning_rate": rate})
    trained = train(windows, NETWORK, training, WindowConfig())
    unlearned, fleet = fitting._seeded(fleet_of_windows(windows, NETWORK, HOUR, 32, 80), training)
    weighing = fitting._weighing(fleet, training.segment)

    def score(module: Network) -> float:
        return fitting._validate(module, fleet, training.segment, weighing)["validation_loss"]

    scores = [score(unlearned), *(epoch["validation_loss"] for epoch in trained.history)]
    assert trained.epochs == int(np.argmin(scores))
    assert score(trained.chosen.network) == pytest.approx(min(scores), rel=1e-6)


def test_where_the_linear_part_alone_did_best_it_is_what_is_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = count(1)
    monkeypatch.setattr(fitting, "_validate", lambda *_: {"validation_loss": float(next(worse))})
    trained = brief(refit=True, backtest=0.1)
    assert trained.epochs == 0
    assert trained.refit_history == []
    fitted = [model.network.ridge for model in (trained.chosen, trained.forecaster)]
    assert (fitted[0] != fitted[1]).any()
    for name, weight in trained.chosen.network.named_parameters():
        assert torch.equal(weight, trained.forecaster.network.get_parameter(name)), name


def test_what_is_refit_is_the_chosen_run_over_all_windows() -> None:
    trained = brief(refit=True, backtest=0.1, epochs=3)
    assert trained.epochs > 0
    assert [epoch["epoch"] for epoch in trained.refit_history] == list(range(1, trained.epochs + 1))
    assert set(trained.refit_history[0]) == {"epoch", "refit_loss", "refit_seconds"}
    assert trained.chosen.version == brief(refit=False, backtest=0.1, epochs=3).chosen.version
    assert trained.chosen.version != trained.forecaster.version


def test_a_refit_of_all_epochs_is_a_run_with_nothing_held_out() -> None:
    trained, whole = brief(refit=True, backtest=0.1, epochs=1), brief(validation=0.0, epochs=1)
    assert trained.forecaster.version == whole.forecaster.version


def test_what_is_refit_has_learned_from_the_last_windows_and_what_was_chosen_has_not() -> None:
    values = sines(100, 6).values
    other = values.copy()
    other[90:] += 100.0
    one, two = (brief(fleet_of(v), refit=True, backtest=0.1, epochs=1) for v in (values, other))
    assert one.chosen.version == two.chosen.version
    assert one.history[0]["validation_loss"] == two.history[0]["validation_loss"]
    assert one.forecaster.version != two.forecaster.version


def test_with_nothing_held_out_there_is_nothing_to_refit() -> None:
    trained = brief(validation=0.0, refit=True)
    assert trained.refit_history == []
    assert trained.forecaster is trained.chosen


class Watched(torch.optim.AdamW):
    """An optimizer that keeps the rate of each step that is taken."""

    rates: ClassVar[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


@pytest.mark.parametrize(("validation", "segment", "series"), [(0.0, 16, 6), (0.2, 16, 6), (0.5, 8, 20)])
def test_the_learning_rate_ends_with_the_last_step(
    monkeypatch: pytest.MonkeyPatch, validation: float, segment: int, series: int
) -> None:
    monkeypatch.setattr(Watched, "rates", [])
    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    brief(sines(100, series), validation=validation, segment=segment, epochs=4, batch_series=6)
    highest = BRIEF.learning_rate
    assert Watched.rates[-1] == pytest.approx(highest / 25 / 1e4, rel=1e-3)
    assert Watched.rates.count(min(Watched.rates)) == 1
    assert max(Watched.rates) == pytest.approx(highest, rel=0.05)
    early = int(np.argmax(Watched.rates)) / len(Watched.rates)
    assert 0.1 < early < 0.25


def test_batches_come_in_another_order_each_epoch_which_the_seed_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    make = Fleet.batch

    def watched(fleet: Fleet, number: int) -> Batch:
        asked.append(int(number))
        return make(fleet, number)

    monkeypatch.setattr(Fleet, "batch", watched)

    def orders(seed: int) -> list[list[int]]:
        asked.clear()
        brief(sines(60, 40), batch_series=5, epochs=3, seed=seed, validation=0.0)
        # Four times for the linear part and once for the weights of the horizons, then once an epoch.
        return [asked[8 * (5 + epoch) : 8 * (6 + epoch)] for epoch in range(3)]

    one = orders(0)
    assert all(sorted(order) == list(range(8)) for order in one)
    assert len({tuple(order) for order in one}) == 3
    assert orders(0) == one
    assert orders(1) != one


def test_the_skill_has_a_unit_that_no_setting_changes() -> None:
    # At a rate of nothing the network stays persistence, whatever the scale of the moment. That of a short
    # half-life follows a storm in the held-out windows; that of a long one does not.
    storm = sines(200, 6).values
    storm[160:] *= 20.0
    values = fleet_of(storm)
    still = {"learning_rate": 1e-12, "epochs": 1}
    bands = [
        train(
            values,
            NetworkConfig.model_validate(NETWORK.model_dump() | {"halflife": halflife, "quantiles": (0.5,)}),
            TrainingConfig.model_validate(BRIEF.model_dump() | still),
            WindowConfig(),
        ).history[0]
        for halflife in (3, 300)
    ]
    assert bands[0]["validation_loss"] != pytest.approx(bands[1]["validation_loss"], rel=0.05)
    for band in bands:
        assert band["validation_skill"] == pytest.approx(0.0, abs=0.05)


def test_constant_series_are_no_skill_and_no_harm() -> None:
    trained = brief(fleet_of(np.full((100, 3), 7.0)))
    assert [epoch["validation_skill"] for epoch in trained.history] == [0.0, 0.0]
    assert np.isfinite(weights(trained)).all()


def test_with_nothing_held_out_nothing_is_validated() -> None:
    for epoch in brief(validation=0.0).history:
        assert set(epoch) == {"epoch", "train_loss", "seconds"}


@pytest.mark.parametrize("length", [2, 3, 6, 7])
def test_series_shorter_than_the_horizon_are_learned_from(length: int) -> None:
    trained = brief(sines(length, 4), validation=0.0)
    assert np.isfinite(weights(trained)).all()
    assert all(np.isfinite(epoch["train_loss"]) and epoch["train_loss"] > 0 for epoch in trained.history)
    before = brief(sines(length, 4), validation=0.0, learning_rate=1e-12, epochs=1)
    assert np.abs(weights(trained) - weights(before)).max() > 1e-5


def test_short_series_beside_long_ones_are_no_harm() -> None:
    values = sines(100, 6).values
    values[:97, 1] = np.nan  # begins in what is held out
    values[:70, 2] = np.nan
    values[:, 3] = np.nan
    values[:, 4] = 5.0
    values[1:, 5] = np.nan
    trained = brief(fleet_of(values))
    assert np.isfinite(weights(trained)).all()
    assert np.isfinite([epoch["validation_loss"] for epoch in trained.history]).all()


@pytest.mark.parametrize("windows", [0, 1])
def test_too_little_to_learn_from_is_said(windows: int) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        brief(sines(windows, 3))


def test_values_in_the_held_out_part_alone_are_too_little_to_learn_from() -> None:
    values = sines(100, 3).values
    values[:90] = np.nan
    with pytest.raises(DataError, match=r"held-out .* training.validation"):
        brief(fleet_of(values))


def test_a_broken_sensor_does_not_own_the_weights() -> None:
    values = sines(150, 8).values
    broken = values.copy()
    broken[60, 0] = 1e15
    assert np.isfinite(weights(brief(fleet_of(broken)))).all()


@pytest.mark.parametrize(("at", "validation"), [(60, 0.0), (60, 0.2), (97, 0.2)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_a_series_that_makes_the_loss_no_number_is_named(at: int, validation: float, value: float) -> None:
    values = sines(100, 6).values
    values[at, 4] = value
    values[at - 1, 4] = -value
    with pytest.raises(DataError, match="'s4'") as told:
        brief(fleet_of(values), validation=validation)
    assert "\n" not in str(told.value)


def test_weights_that_run_away_stop_training_and_name_the_rate() -> None:
    values = sines(100, 6).values
    values[50:, 2] += 1e12 * np.sign(np.sin(np.arange(50)))
    with pytest.raises(DataError, match=r"'s2'.* training\.learning_rate"):
        brief(fleet_of(values), learning_rate=1e30, clip_norm=1e30)


def test_values_at_the_bound_of_observations_are_learned_from() -> None:
    values = sines(100, 6).values
    values[:, 0] = LARGEST * np.sign(np.sin(np.arange(100)))
    values[:, 1] = LARGEST
    values[60, 2] = -LARGEST
    trained = brief(fleet_of(values))
    assert np.isfinite(weights(trained)).all()
    assert np.isfinite([list(epoch.values()) for epoch in trained.history]).all()
    _, forecasts = advance(trained.forecaster, trained.forecaster.initial_state(), fleet_of(values))
    assert np.isfinite(forecasts.values).all()


@pytest.mark.parametrize("windows", [3, 40, 128])
def test_a_run_of_very_few_steps_still_ends(windows: int) -> None:
    values = np.random.default_rng(0).normal(size=(windows, 1))
    network = NetworkConfig(hidden=4, layers=1, horizon=2, lags=(1,), ring=4)
    trained = train(Windows(("a",), 0, values), network, TrainingConfig(epochs=1))
    assert len(trained.history) == 1
