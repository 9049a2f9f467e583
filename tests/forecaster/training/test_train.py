from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.stepping import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training import train as fitting
from forecaster.training.batches import Fleet
from forecaster.training.batches import fleet_of as fleet_of_windows
from forecaster.training.losses import weighing_of
from forecaster.training.segments import Batch
from forecaster.training.train import Epoch, train
from schemas.errors import DataError
from tests.fleets import HOUR
from tests.forecaster.brief import BRIEF, NETWORK, brief, fleet_of, sines, weights


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
    weighing = weighing_of(fleet, training.segment)

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


def test_with_nothing_held_out_nothing_is_validated() -> None:
    for epoch in brief(validation=0.0).history:
        assert set(epoch) == {"epoch", "train_loss", "seconds"}
