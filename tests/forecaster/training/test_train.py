"""Tests of training: seeds, threads, the learning rate, the choice of the best epoch, and the refit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.stepping.advance import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training import train as fitting
from forecaster.training.batches import Fleet
from forecaster.training.batches import fleet_of as fleet_of_windows
from forecaster.training.epochs import Epoch, validate
from forecaster.training.first_weights import first_weights
from forecaster.training.losses import horizon_weights
from forecaster.training.segments import TrainingBatch
from forecaster.training.train import train
from schemas.errors import DataError
from tests.fleets import HOUR
from tests.forecaster.brief import BRIEF, NETWORK, fleet_of, sines, train_briefly, weights


def test_equal_training_seeds_give_bitwise_equal_weights() -> None:
    one, other = train_briefly(seed=7), train_briefly(seed=7)
    np.testing.assert_array_equal(weights(one), weights(other))
    assert one.forecaster.version == other.forecaster.version
    for a, b in zip(one.history, other.history, strict=True):
        assert a | {"seconds": 0.0} == b | {"seconds": 0.0}


def test_different_training_seeds_give_different_weights() -> None:
    assert np.abs(weights(train_briefly(seed=1)) - weights(train_briefly(seed=2))).max() > 1e-3


def test_training_does_not_change_the_random_state_of_torch() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_briefly()
    assert torch.equal(torch.rand(3), expected)


def test_trainings_in_two_threads_do_not_change_each_other() -> None:
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: train_briefly(seed=seed), (7, 8)))
    for seed, trained in zip((7, 8), together, strict=True):
        np.testing.assert_array_equal(weights(trained), weights(train_briefly(seed=seed)))


@pytest.mark.parametrize("windows", [40, 1])
def test_training_restores_the_thread_count(windows: int) -> None:
    before = torch.get_num_threads()
    thread_counts: list[int] = []
    with suppress(DataError):
        train(
            sines(windows, 3),
            NETWORK,
            TrainingConfig(epochs=1, threads=before + 2, refit=False),
            on_epoch=lambda epoch: thread_counts.append(torch.get_num_threads()),
        )
    assert torch.get_num_threads() == before
    assert thread_counts == ([before + 2] if windows > 1 else [])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_trained_network_beats_persistence_on_new_waves(cell: str) -> None:
    network = NetworkConfig.model_validate(NETWORK.model_dump() | {"cell": cell, "hidden": 16})
    training = TrainingConfig(epochs=6, segment=24, learning_rate=1e-2)
    model = train(sines(240), network, training, WindowConfig()).forecaster

    fresh = sines(200, seed=1)
    _, forecasts = advance(model, model.initial_state(), fresh)
    middle = forecasts.values[1]
    spread = fresh.values.std(axis=0)
    for horizon in (1, 3, 6):
        actual = fresh.values[100 + horizon :]
        last = fresh.values[100:-horizon]
        error = (np.abs(middle[100:-horizon, :, horizon - 1] - actual) / spread).mean()
        persistence = (np.abs(last - actual) / spread).mean()
        assert error < 0.7 * persistence, f"horizon {horizon}: {error} against {persistence}"


def test_training_lowers_the_reported_validation_loss() -> None:
    reported: list[Epoch] = []
    training = TrainingConfig(epochs=5, segment=16, learning_rate=1e-2, validation=0.2)
    trained = train(sines(150, 8), NETWORK, training, WindowConfig(), reported.append)
    history = trained.history
    assert reported == history + trained.refit_history
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert history[-1]["validation_skill"] > history[0]["validation_skill"]
    assert all(epoch["seconds"] > 0 for epoch in history)


def rising_then_falling() -> Windows:
    """Return series that rise in training and fall in validation: training makes validation errors worse."""
    t = np.arange(100.0)[:, None]
    return fleet_of(np.minimum(t, 160 - t) + np.random.default_rng(0).normal(size=(100, 6)))


@pytest.mark.parametrize(
    ("windows", "rate"), [(rising_then_falling(), 1e-2), (sines(100, 6), 1e-2), (sines(100, 6), 0.3)]
)
def test_training_keeps_the_best_or_the_initial_weights(windows: Windows, rate: float) -> None:
    training = TrainingConfig.model_validate(BRIEF.model_dump() | {"epochs": 5, "learning_rate": rate})
    trained = train(windows, NETWORK, training, WindowConfig())
    untrained, fleet = first_weights(fleet_of_windows(windows, NETWORK, HOUR, 32, 80), training, None)
    weighing = horizon_weights(fleet, training.segment)

    def score(module: Network) -> float:
        return validate(module, fleet, training.segment, weighing)["validation_loss"]

    scores = [score(untrained), *(epoch["validation_loss"] for epoch in trained.history)]
    assert trained.epochs == int(np.argmin(scores))
    assert score(trained.chosen.network) == pytest.approx(min(scores), rel=1e-6)


def test_a_refit_of_zero_epochs_fits_only_the_linear_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = count(1)
    monkeypatch.setattr(fitting, "validate", lambda *_: {"validation_loss": float(next(worse))})
    trained = train_briefly(refit=True, backtest=0.1)
    assert trained.epochs == 0
    assert trained.refit_history == []
    fitted = [model.network.ridge for model in (trained.chosen, trained.forecaster)]
    assert (fitted[0] != fitted[1]).any()
    for name, weight in trained.chosen.network.named_parameters():
        assert torch.equal(weight, trained.forecaster.network.get_parameter(name)), name


def test_a_refit_trains_for_the_best_number_of_epochs() -> None:
    trained = train_briefly(refit=True, backtest=0.1, epochs=3)
    assert trained.epochs > 0
    assert [epoch["epoch"] for epoch in trained.refit_history] == list(range(1, trained.epochs + 1))
    assert set(trained.refit_history[0]) == {"epoch", "refit_loss", "refit_seconds"}
    assert trained.chosen.version == train_briefly(refit=False, backtest=0.1, epochs=3).chosen.version
    assert trained.chosen.version != trained.forecaster.version


def test_a_refit_has_the_weights_of_training_without_validation() -> None:
    trained, whole = (
        train_briefly(refit=True, backtest=0.1, epochs=1),
        train_briefly(validation=0.0, epochs=1),
    )
    assert trained.forecaster.version == whole.forecaster.version


def test_only_the_refit_trains_on_the_backtest_windows() -> None:
    values = sines(100, 6).values
    other = values.copy()
    other[90:] += 100.0
    one, two = (train_briefly(fleet_of(v), refit=True, backtest=0.1, epochs=1) for v in (values, other))
    assert one.chosen.version == two.chosen.version
    assert one.history[0]["validation_loss"] == two.history[0]["validation_loss"]
    assert one.forecaster.version != two.forecaster.version


def test_training_without_held_out_windows_skips_the_refit() -> None:
    trained = train_briefly(validation=0.0, refit=True)
    assert trained.refit_history == []
    assert trained.forecaster is trained.chosen


class RecordingAdamW(torch.optim.AdamW):
    """AdamW that records the learning rate of each step."""

    rates: ClassVar[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


@pytest.mark.parametrize(("validation", "segment", "series"), [(0.0, 16, 6), (0.2, 16, 6), (0.5, 8, 20)])
def test_the_learning_rate_is_lowest_at_the_last_step(
    monkeypatch: pytest.MonkeyPatch, validation: float, segment: int, series: int
) -> None:
    monkeypatch.setattr(RecordingAdamW, "rates", [])
    monkeypatch.setattr(torch.optim, "AdamW", RecordingAdamW)
    train_briefly(sines(100, series), validation=validation, segment=segment, epochs=4, batch_series=6)
    highest = BRIEF.learning_rate
    assert RecordingAdamW.rates[-1] == pytest.approx(highest / 25 / 1e4, rel=1e-3)
    assert RecordingAdamW.rates.count(min(RecordingAdamW.rates)) == 1
    assert max(RecordingAdamW.rates) == pytest.approx(highest, rel=0.05)
    early = int(np.argmax(RecordingAdamW.rates)) / len(RecordingAdamW.rates)
    assert 0.1 < early < 0.25


def test_the_seed_determines_a_new_batch_order_each_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch_numbers: list[int] = []
    make = Fleet.batch

    def recorded(fleet: Fleet, number: int) -> TrainingBatch:
        batch_numbers.append(int(number))
        return make(fleet, number)

    monkeypatch.setattr(Fleet, "batch", recorded)

    def orders(seed: int) -> list[list[int]]:
        batch_numbers.clear()
        train_briefly(sines(60, 40), batch_series=5, epochs=3, seed=seed, validation=0.0)
        # Before the first epoch, training reads the 8 batches five times: four times to fit the linear
        # experts, and once to compute the weights of the horizons.
        return [batch_numbers[8 * (5 + epoch) : 8 * (6 + epoch)] for epoch in range(3)]

    one = orders(0)
    assert all(sorted(order) == list(range(8)) for order in one)
    assert len({tuple(order) for order in one}) == 3
    assert orders(0) == one
    assert orders(1) != one


def test_the_validation_skill_does_not_depend_on_network_halflife() -> None:
    # With a learning rate of almost 0, the network keeps its first weights. In the held-out windows, all
    # values are multiplied by 20, and the first weights are no better than persistence: the skill is near 0.
    # In these windows, the unit of a series depends on the half-life.
    # The loss is in units, so it depends on the half-life too, but the skill must not depend on it.
    noisy_end = sines(200, 6).values
    noisy_end[160:] *= 20.0
    values = fleet_of(noisy_end)
    tiny_rate = {"learning_rate": 1e-12, "epochs": 1}
    epochs = [
        train(
            values,
            NetworkConfig.model_validate(NETWORK.model_dump() | {"halflife": halflife, "quantiles": (0.5,)}),
            TrainingConfig.model_validate(BRIEF.model_dump() | tiny_rate),
            WindowConfig(),
        ).history[0]
        for halflife in (3, 300)
    ]
    assert epochs[0]["validation_loss"] != pytest.approx(epochs[1]["validation_loss"], rel=0.05)
    for epoch in epochs:
        assert epoch["validation_skill"] == pytest.approx(0.0, abs=0.05)


def test_training_without_held_out_windows_skips_validation() -> None:
    for epoch in train_briefly(validation=0.0).history:
        assert set(epoch) == {"epoch", "train_loss", "seconds"}
