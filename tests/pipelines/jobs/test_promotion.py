"""Tests of the training, comparison, promotion, retraining and rollback of one registered model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.registry.registry import Registry
from forecaster.time.windows import Windows
from pipelines.jobs.compare import run_compare
from pipelines.jobs.promotion import Gated, run_promotion
from pipelines.jobs.retrain import Retrained, fine_tuning, run_retraining
from pipelines.jobs.train import TrainOutcome, run_training
from pipelines.settings.config import JobConfig
from schemas.errors import ConfigError, DataError, ModelError
from tests.fleets import HOUR, START, rows_of

HOURS, SERIES = 480, 4


def waves(hours: int, start: int = START, phase: float = 0.0) -> Windows:
    """Return hourly windows of noisy sine waves with a period of 12 hours."""
    t = start - START + np.arange(hours)[:, None]
    noise = np.random.default_rng(start).normal(size=(hours, SERIES))
    values = 10 + np.sin(t * np.pi / 6 + phase + np.arange(SERIES)) + noise / 10
    return Windows(tuple(f"s{i}" for i in range(SERIES)), start, values)


def config(folder: Path, data: str, **sections: Any) -> JobConfig:
    """Return the settings of a job over a file in `folder`.

    The model has no experts, because these would learn from the rows and make the scores of versions similar.
    """
    given: dict[str, Any] = {
        "data": {"paths": [str(folder / data)]},
        "network": {"hidden": 8, "layers": 1, "horizon": 3, "lags": [1, 2, 3], "ring": 24, "linear": False},
        "online": {"experts": [], "alarms_per_week": 0},
        "training": {"epochs": 6, "segment": 24, "learning_rate": 0.02, "backtest": 0.2},
        "gate": {"times_slower": 100, "coverage_error": 0.2, "least_blocks": 2},
        "mlflow": {
            "tracking_uri": f"sqlite:///{folder}/runs.db",
            "model": "waves",
            "unsent": str(folder / "unsent"),
        },
    }
    names = {**given, **sections}
    return JobConfig.model_validate({key: given.get(key, {}) | sections.get(key, {}) for key in names})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the input files and an MLflow store, which all tests of this module share.

    So the store contains the versions that earlier tests have registered.
    """
    made = tmp_path_factory.mktemp("life")
    rows_of(waves(HOURS)).write_parquet(made / "old.parquet")
    rows_of(waves(HOURS, START + HOURS)).write_parquet(made / "new.parquet")
    noise = waves(HOURS)
    noise.values[:] = np.random.default_rng(1).normal(10, 1, noise.values.shape)
    rows_of(noise).write_parquet(made / "noise.parquet")
    rows_of(waves(5)).write_parquet(made / "short.parquet")
    return made


@pytest.fixture(scope="module")
def short_model(folder: Path) -> TrainOutcome:
    """Return the result of training the first version of the model, on too few windows for a backtest."""
    return run_training(config(folder, "short.parquet"), "short")


@pytest.fixture(scope="module")
def champion(folder: Path, short_model: TrainOutcome) -> TrainOutcome:
    """Train the second version of the model on noisy sine waves, for one epoch, and return the result."""
    return run_training(config(folder, "old.parquet", training={"epochs": 1}), "old")


@pytest.fixture(scope="module")
def retrained(folder: Path, champion: TrainOutcome) -> Retrained:
    return run_retraining(config(folder, "new.parquet"), "waves", gate=True, epochs=40)


def registry(folder: Path) -> Registry:
    return Registry(config(folder, "old.parquet").mlflow.tracking_uri)


def tags_of(folder: Path, run_id: str) -> dict[str, str]:
    import mlflow

    found: dict[str, str] = mlflow.MlflowClient(registry(folder).tracking_uri).get_run(run_id).data.tags
    return found


def test_a_first_version_without_a_backtest_becomes_challenger(short_model: TrainOutcome) -> None:
    assert short_model.version.aliases == ("challenger",)
    (line,) = [line for line in short_model.notices if "challenger" in line]
    assert line == (
        "waves/1 is the challenger, and the model has no champion: it has no backtest, since the data are "
        "too short or training.backtest is 0; statecast promote waves/1 makes it the champion"
    )


def test_the_first_version_better_than_persistence_becomes_champion(
    folder: Path, champion: TrainOutcome
) -> None:
    assert champion.version.aliases == ("champion",)
    (moved,) = registry(folder).aliases.moves("waves", "champion")
    assert (moved.before, moved.after) == (None, 2)
    assert moved.why.startswith("it is the first version that is better than persistence (skill +")


def test_retraining_logs_a_child_run_and_passes_the_gate(
    folder: Path, champion: TrainOutcome, retrained: Retrained
) -> None:
    assert retrained.version is not None
    assert retrained.gated is not None
    assert retrained.gated.decision.promote, retrained.gated.line
    assert tags_of(folder, retrained.run_id)["mlflow.parentRunId"] == champion.run_id
    aliases = registry(folder).aliases
    assert str(aliases.pointed_to("waves", "champion")) == str(aliases.pointed_to("waves", "challenger"))
    assert aliases.moves("waves", "champion")[-1].why == retrained.gated.line
    learned_us = HOUR.start_us(START + HOURS + HOURS * 8 // 10)
    assert aliases.trained_until(str(retrained.version)) == datetime.fromtimestamp(learned_us / 1e6, UTC)
    # The comparison scores only targets after the windows on which the new version was trained.
    assert retrained.gated.compared.scored[0].timestamp() * 1e6 == learned_us


def test_a_version_description_has_the_decision_and_every_check(folder: Path, retrained: Retrained) -> None:
    import mlflow

    assert retrained.gated is not None
    uri = registry(folder).tracking_uri
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    described = str(client.get_model_version("waves", "3").description)
    assert described.startswith("retrained from waves/2 on 4 series, on rows until 2013-02-06 00:00 UTC; ")
    assert "Replaces waves/2 as champion, by run" in described
    for check in retrained.gated.decision.checks:
        assert check.reason in described
    tags = tags_of(folder, retrained.gated.compared.run_id)
    assert (tags["statecast.decision"], tags["statecast.reason"]) == ("promoted", retrained.gated.line)


def test_a_refused_model_version_moves_no_alias(folder: Path, retrained: Retrained) -> None:
    bad = run_training(config(folder, "noise.parquet", training={"epochs": 1}), "noise")
    assert bad.version.aliases == ()
    gated = run_promotion(config(folder, "new.parquet"), str(bad.version), "champion")
    assert not gated.decision.promote
    assert gated.promotion is None
    assert gated.line.startswith(f"{bad.version} does not replace waves/3: the loss is ")
    assert str(registry(folder).aliases.pointed_to("waves", "champion")) == "waves/3"
    assert tags_of(folder, gated.compared.run_id)["statecast.decision"] == "refused"


def test_the_champion_is_not_promoted_over_itself(folder: Path, retrained: Retrained) -> None:
    gated: Gated = run_promotion(
        config(folder, "new.parquet", gate={"margin": 0.0}), "waves@challenger", "champion"
    )
    assert not gated.decision.promote
    assert gated.compared.comparison.overall == (0.0, 0.0, 0.0)


def test_a_comparison_without_windows_after_training_raises_an_error(
    folder: Path, retrained: Retrained
) -> None:
    with pytest.raises(DataError, match=r"0 windows lie after .*, until when waves/2 was trained"):
        run_compare(config(folder, "old.parquet"), "waves/2", "waves/3")


def test_comparing_by_class_fails_without_a_static_covariate_file(folder: Path, retrained: Retrained) -> None:
    job = config(folder, "new.parquet", gate={"classes": "group"})
    with pytest.raises(ConfigError, match=r"gate.classes is 'group', but covariates.static names no file"):
        run_compare(job, "waves/2", "waves/3")


def test_a_rollback_sets_the_alias_to_the_previous_version(folder: Path, retrained: Retrained) -> None:
    moved = registry(folder).aliases.rollback("waves", "champion")
    assert str(moved.version) == "waves/2"
    registry(folder).promote("waves/3")


def test_gated_promotion_to_an_alias_without_version_is_refused(folder: Path, retrained: Retrained) -> None:
    with pytest.raises(ModelError, match="waves has no stable to compare with: set one with statecast prom"):
        run_promotion(config(folder, "new.parquet"), "waves/3", "stable")


def test_fine_tuning_takes_a_third_of_epochs_and_learning_rate() -> None:
    training = JobConfig().training
    assert fine_tuning(training).epochs == 4
    assert fine_tuning(training).learning_rate == pytest.approx(training.learning_rate / 3)
    assert fine_tuning(training, 7).epochs == 7
