"""Tests that a training logs losses, scores and model to MLflow, and writes its states to a state table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.model import Forecaster
from forecaster.registry.registry import Registry
from forecaster.state import State
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from pipelines.jobs.train import TrainOutcome, run_training, write_states
from pipelines.settings.config import JobConfig
from pipelines.state import state_table
from schemas.errors import ModelError
from tests.fleets import START, forecaster, rows_of
from tests.stores import in_memory

HOURS = 120


def waves(hours: int = HOURS, series: int = 4) -> Windows:
    """Return hourly windows of noisy sine waves."""
    t = np.arange(hours)[:, None]
    noise = np.random.default_rng(0).normal(size=(hours, series))
    return Windows(
        tuple(f"s{i}" for i in range(series)), START, np.sin(t / 4 + np.arange(series)) + noise / 5
    )


def job(folder: Path, **training: Any) -> JobConfig:
    """Return the settings of a small training on `waves`, with an MLflow store in ``folder``."""
    rows_of(waves()).write_parquet(folder / "waves.parquet")
    return JobConfig.model_validate(
        {
            "data": {"paths": [str(folder / "waves.parquet")]},
            "network": {"hidden": 4, "layers": 1, "horizon": 3, "lags": [1, 2], "ring": 4},
            "training": {"epochs": 2, "segment": 16} | training,
            "mlflow": {"tracking_uri": f"sqlite:///{folder}/runs.db", "model": "waves"},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def outcome(folder: Path, pictures: None) -> TrainOutcome:
    return run_training(job(folder), "waves", states=folder / "states" / "new")


def metric_by_step(config: JobConfig, run_id: str, name: str) -> dict[int, float]:
    """Return for each step the value that an MLflow run has logged for a metric."""
    import mlflow

    points = mlflow.MlflowClient(config.mlflow.tracking_uri.get_secret_value()).get_metric_history(
        run_id, name
    )
    return {point.step: point.value for point in points}


def test_training_and_refit_losses_are_logged_separately(folder: Path, outcome: TrainOutcome) -> None:
    names = {
        "train_loss": "epoch/loss_train",
        "validation_loss": "epoch/loss_validation",
        "validation_skill": "epoch/skill_validation",
        "seconds": "time/epoch_s",
    }
    for name, metric in names.items():
        expected = {int(epoch["epoch"]): epoch[name] for epoch in outcome.history}
        assert metric_by_step(job(folder), outcome.run_id, metric) == expected
    refit_losses = {int(epoch["epoch"]): epoch["refit_loss"] for epoch in outcome.refit_history}
    assert metric_by_step(job(folder), outcome.run_id, "epoch/loss_refit") == refit_losses
    assert outcome.as_json()["refit_epochs"] == outcome.refit_history


@pytest.mark.usefixtures("no_pictures")
def test_the_backtest_uses_weights_trained_without_backtest_windows(
    tmp_path: Path,
) -> None:
    outcomes = [run_training(job(tmp_path, refit=refit), "waves") for refit in (True, False)]
    by = ["model", "horizon"]  # sort the scores, because their order may differ
    assert_frame_equal(outcomes[0].scores.sort(by), outcomes[1].scores.sort(by), rel_tol=1e-6, abs_tol=1e-9)
    assert outcomes[0].version.model_version != outcomes[1].version.model_version
    counts = outcomes[0].scores.filter(pl.col("model") == "lstm").sort("horizon")["count"].to_list()
    assert counts == [4 * (HOURS // 10 - horizon) for horizon in (1, 2, 3)]


def test_gradient_norms_by_lag_are_logged_and_plotted(folder: Path, outcome: TrainOutcome) -> None:
    norms = metric_by_step(job(folder), outcome.run_id, "gradient/norm_by_lag")
    assert sorted(norms) == list(range(17))
    assert all(norm >= 0 for norm in norms.values())
    assert norms[1] > norms[16]
    files = folder / "mlartifacts" / outcome.run_id / "artifacts"
    assert (files / "plots" / "gradient_norm_by_lag.png").read_bytes()[:4] == b"\x89PNG"


HOSTILE = (
    "cost_$_per_$x",
    r"$\frac{$ \$",
    "a\nb\t\x00\x1b[31m",
    "温度 🌡",
    "_" * 300,
    "-- 'x\"; <b>/..",
    "%s {0}",
)


@pytest.mark.usefixtures("pictures")
def test_series_with_hostile_names_are_trained_and_plotted(tmp_path: Path) -> None:
    config = job(tmp_path)
    renamed = dict(zip(waves(series=len(HOSTILE)).series_ids, HOSTILE, strict=True))
    rows = rows_of(waves(series=len(HOSTILE))).with_columns(pl.col("series_id").replace(renamed))
    rows.write_parquet(tmp_path / "waves.parquet")
    found = run_training(config, "hostile", states=tmp_path / "states")
    assert found.notices == ()
    pictures = (tmp_path / "mlartifacts" / found.run_id / "artifacts" / "plots").glob("fan_*.png")
    assert len(list(pictures)) == 3
    assert set(joined_state(tmp_path / "states").series_ids) == set(HOSTILE)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "broken",
    [
        "backtest_log.fan_plot.fan_figure",
        "train.plots.loss_figure",
        "train.gradient_norms",
        "backtest_log.backtest",
        "backtest_log.log_comparison",
    ],
)
def test_training_registers_the_model_when_backtest_or_figures_fail(
    folder: Path, outcome: TrainOutcome, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from pipelines.jobs import train

    def fail(*arguments: Any, **named: Any) -> Any:
        raise ValueError("\nParseFatalException: expected end of text\n^")

    fake = FakeTraining(Registry(job(folder).mlflow.tracking_uri).load(str(outcome.version)), outcome)
    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setattr(f"pipelines.jobs.{broken}", fail)
    found = run_training(job(folder), "broken")
    assert found.version.model_version == outcome.version.model_version
    assert found.notices
    assert all("which could not be made: ParseFatalException" in line for line in found.notices)
    assert Registry(job(folder).mlflow.tracking_uri).load(str(found.version)).version


class FakeTraining:
    """A function to use in place of `train` that returns the result of an earlier training at once.

    The tests that use it are about the steps after the training.
    """

    def __init__(self, forecaster: Forecaster, outcome: TrainOutcome) -> None:
        self.forecaster = self.chosen = forecaster
        self.history, self.refit_history = outcome.history, outcome.refit_history

    def __call__(
        self, windows: Any, network: Any, training: Any, config: Any, log: Any, *more: Any
    ) -> FakeTraining:
        for epoch in self.history:
            log(epoch)
        return self


@pytest.mark.usefixtures("no_pictures")
def test_a_model_that_cannot_be_registered_is_saved_locally(
    folder: Path, outcome: TrainOutcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipelines.jobs import train

    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    kept = Registry(job(folder).mlflow.tracking_uri).load(str(outcome.version))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", FakeTraining(kept, outcome))
    monkeypatch.setattr("forecaster.registry.sender.save", full)
    with pytest.raises(ModelError, match=r"was trained, and the MLflow store .*No space left") as caught:
        run_training(job(folder), "full")
    saved = Path(str(caught.value).rpartition("--model ")[2].partition(" ")[0])
    assert saved.parent.parent == tmp_path / "statecast-unsent"
    assert Forecaster.load(saved).version == kept.version


def joined_state(folder: Path) -> State:
    """Read a state table and return the states of its shards as one state, sorted by series id."""
    state = State.join([shard.state for shard in state_table.read(folder).shards])
    return state.take(np.argsort(state.series_ids))


def test_train_writes_states_stepped_through_every_window(folder: Path, outcome: TrainOutcome) -> None:
    model = Registry(job(folder).mlflow.tracking_uri).load(str(outcome.version))
    expected, _ = advance(model, model.initial_state(), waves())
    found = joined_state(folder / "states" / "new")
    assert found.model_version == outcome.version.model_version
    assert found.series_ids == expected.series_ids
    for name, own in expected.parts.items():
        for field, array in own.items():
            np.testing.assert_allclose(found.parts[name][field], array, atol=1e-5, rtol=1e-5)
    shards = state_table.read(folder / "states" / "new").shards
    assert {shard.closed_through for shard in shards} == {waves().stop - 1}
    assert len(shards) == JobConfig().jobs.shards


def test_block_size_does_not_change_states_written_after_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.jobs import train

    write_states(tmp_path / "one", forecaster(), waves(), 2)
    monkeypatch.setattr(train, "_BLOCK_STEPS", 28)
    write_states(tmp_path / "many", forecaster(), waves(), 3)
    one, many = joined_state(tmp_path / "one"), joined_state(tmp_path / "many")
    assert (one.clock == START + HOURS - 1).all()
    np.testing.assert_array_equal(one.clock, many.clock)
    np.testing.assert_allclose(one.parts["network"]["hidden"], many.parts["network"]["hidden"], atol=1e-5)


def test_a_state_table_is_written_to_an_object_store(tmp_path: Path) -> None:
    with in_memory() as place:
        write_states(place / "states", forecaster(), waves(), 2)
        kept = state_table.read(place / "states")
    write_states(tmp_path / "states", forecaster(), waves(), 2)
    assert kept.state.series_ids == state_table.read(tmp_path / "states").state.series_ids
    assert kept.closed_through == waves().stop - 1


def test_forecasts_from_written_states_equal_uninterrupted_forecasts(tmp_path: Path) -> None:
    model, history = forecaster(), waves()
    write_states(tmp_path / "half", model, history.between(START, START + 80), 2)
    _, later = advance(model, joined_state(tmp_path / "half"), history.between(START + 80, START + HOURS))
    _, whole = advance(model, model.initial_state(), history)
    first = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=81)
    expected = whole.frame().filter(pl.col("issued_at") >= first)
    flat = [
        f.explode("forecast").unnest("forecast").sort("series_id", "issued_at", "horizon")
        for f in (later.frame(), expected)
    ]
    np.testing.assert_allclose(flat[0]["q50"], flat[1]["q50"], atol=1e-5)
