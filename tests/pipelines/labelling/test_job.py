"""Tests of the job that trains and applies a labeller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from forecaster.labelling.config import LabelConfig
from forecaster.labelling.model import Labeller
from pipelines.labelling.job import LabelOutcome, run_labelling
from pipelines.labelling.rows import LabelColumns
from pipelines.settings.mlflow_config import MlflowConfig
from schemas.errors import DataError
from schemas.secrets import SecretUrl

TINY = LabelConfig(hidden=8, epochs=3, batch=8, learning_rate=0.02, threads=1)


def waves(path: Path) -> Path:
    """Write 60 slow or quick sequences, one invalid row and one duplicate row; return the path."""
    rng, frames = np.random.default_rng(0), []
    for number in range(60):
        steps = np.arange(10 + number % 6)
        name = "quick" if number % 2 else "slow"
        x = np.sin(steps * (2.0 if number % 2 else 0.3) + rng.random())
        frames.append(pl.DataFrame({"series_id": f"s{number}", "second": steps + 1e9, "x": x, "label": name}))
    text = pl.concat(frames).with_columns(pl.col("x").cast(pl.String))
    bad = text.head(1).with_columns(pl.lit("much").alias("x"))
    pl.concat([text, bad, text.head(1)]).write_csv(path)
    return path


def spikes(path: Path) -> Path:
    """Write two hourly series of 500 steps, with a spike at about 4 % of the steps; return the path."""
    rng, frames = np.random.default_rng(1), []
    hours = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 2, 1), "1h", eager=True).head(500)
    for name, level in (("a", 0.0), ("b", 1000.0)):
        spike = rng.random(500) < 0.04
        x = level + rng.normal(0, 1, 500) + 10 * spike
        frames.append(
            pl.DataFrame({"series_id": name, "time": hours, "x": x, "fault": spike.astype(np.int64)})
        )
    pl.concat(frames).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def sequence_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelOutcome, Path]:
    folder = tmp_path_factory.mktemp("sequences")
    outcome = run_labelling(
        [waves(folder / "waves.csv")],
        LabelColumns(timestamp="second"),
        TINY,
        mlflow=MlflowConfig(tracking_uri=SecretUrl(f"sqlite:///{folder / 'runs.db'}")),
        name="waves",
        output=folder / "out",
    )
    return outcome, folder


@pytest.fixture(scope="module")
def step_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelOutcome, Path]:
    folder = tmp_path_factory.mktemp("steps")
    outcome = run_labelling(
        [spikes(folder / "spikes.parquet")],
        LabelColumns("fault"),
        TINY.model_copy(update={"epochs": 10}),
        mlflow=MlflowConfig(tracking_uri=SecretUrl(f"sqlite:///{folder / 'runs.db'}")),
        name="spikes",
        output=folder / "out",
    )
    return outcome, folder


def files_of(folder: Path, run_id: str) -> set[str]:
    client = MlflowClient(f"sqlite:///{folder / 'runs.db'}")
    found: list[Any] = client.list_artifacts(run_id)
    below = [
        artifact for part in found if part.is_dir for artifact in client.list_artifacts(run_id, part.path)
    ]
    return {artifact.path for artifact in [*found, *below]}


def test_a_sequence_labelling_outcome_has_classes_scores_and_row_counts(
    sequence_run: tuple[LabelOutcome, Path],
) -> None:
    outcome, _ = sequence_run
    assert (outcome.of, outcome.series, outcome.classes, outcome.scored_part) == (
        "sequence",
        60,
        ("quick", "slow"),
        "test",
    )
    assert set(outcome.scores) == {"accuracy", "macro_f1", "log_loss"}
    assert outcome.rows_in == outcome.used + outcome.quarantined + outcome.duplicates
    assert (outcome.quarantined, outcome.duplicates) == (1, 1)
    assert any("'much' is not a number" in line for line in outcome.notices)


def test_a_labelling_run_logs_epochs_scores_plots_and_model(
    sequence_run: tuple[LabelOutcome, Path],
) -> None:
    outcome, folder = sequence_run
    run = MlflowClient(f"sqlite:///{folder / 'runs.db'}").get_run(outcome.run_id)
    assert {
        "epoch/loss_train", "epoch/loss_validation", "test/accuracy", "test/macro_f1", "test/log_loss"
    } <= set(run.data.metrics)  # fmt: skip
    assert run.data.params["cell"] == "lstm"
    wanted = {"plots/loss.png", "plots/confusion.png", "quarantine.parquet", "model/labeller.safetensors"}
    assert wanted <= files_of(folder, outcome.run_id)


def test_labelling_writes_the_model_and_one_label_per_sequence(
    sequence_run: tuple[LabelOutcome, Path],
) -> None:
    outcome, folder = sequence_run
    assert Labeller.load(folder / "out").version == outcome.model_version
    labels = pl.read_parquet(folder / "out" / "labels.parquet")
    assert labels.columns == ["series_id", "label", "called", "p_quick", "p_slow"]
    assert labels.height == 60
    np.testing.assert_allclose(labels.select("p_quick", "p_slow").to_numpy().sum(axis=1), 1.0, atol=1e-5)


def test_a_labeller_of_time_steps_is_trained_and_scored(
    step_run: tuple[LabelOutcome, Path],
) -> None:
    outcome, folder = step_run
    assert (outcome.of, outcome.background, outcome.freq_s, outcome.classes) == (
        "step",
        "0",
        3600,
        ("0", "1"),
    )
    wanted = {
        "accuracy", "macro_f1", "log_loss", "precision", "recall", "f1", "average_precision",
        "recall_at_one_false_alarm_a_week", "false_alarms_a_week",
    }  # fmt: skip
    assert set(outcome.scores) == wanted
    assert outcome.scores["average_precision"] > 0.6
    assert [row["label"] for row in outcome.kinds] == ["1"]
    assert {"plots/precision_recall.png", "plots/found.png", "found.json"} <= files_of(folder, outcome.run_id)


def test_alarm_flags_mark_rows_above_the_labeller_threshold(step_run: tuple[LabelOutcome, Path]) -> None:
    _, folder = step_run
    labels = pl.read_parquet(folder / "out" / "labels.parquet")
    assert labels.columns == ["series_id", "timestamp", "alarm", "label", "called", "p_0", "p_1"]
    rows = pl.read_parquet(folder / "spikes.parquet")
    assert labels["label"].to_list() == rows["fault"].cast(pl.String).to_list()
    assert labels["timestamp"].dt.replace_time_zone(None).to_list() == rows["time"].to_list()
    model = Labeller.load(folder / "out")
    raised = 1 - labels["p_0"].to_numpy() > model.task.threshold
    np.testing.assert_array_equal(raised, labels["alarm"].to_numpy())


def test_a_file_with_equal_labels_starts_no_mlflow_run(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("series_id,time,x,label\na,2020-01-01,1,ok\nb,2020-01-01,2,ok\n")
    store = tmp_path / "runs.db"
    with pytest.raises(DataError, match="holds only 'ok'"):
        run_labelling(
            [path],
            LabelColumns(),
            TINY,
            mlflow=MlflowConfig(tracking_uri=SecretUrl(f"sqlite:///{store}")),
            name="x",
        )
    assert not store.exists()
