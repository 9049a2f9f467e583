"""Tests of the job of a rolling evaluation: its scores, its report, and what it logs to MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from forecaster.time.windows import Windows
from pipelines.jobs.progress import Progress
from pipelines.jobs.rolling import RollingJob, run_rolling, windows_and_split
from pipelines.jobs.rolling_scores import Evaluated, member_table, write_rolling
from pipelines.settings.job_file import load_config
from schemas.errors import ConfigError, DataError
from schemas.scores import MEMBER_MEASURES, check_member_scores
from tests.fleets import START, rows_of

ROWS = 150
SMALL = {"network.hidden": 4, "network.layers": 1, "training.epochs": 1}


def history() -> Windows:
    """Return two series with a daily cycle, and a third series that begins after the training rows."""
    chance = np.random.default_rng(0)
    hour = np.arange(float(ROWS))[:, None] + np.array([0.0, 5.0, 0.0])
    values = 4 * np.sin(2 * np.pi * hour / 24) + chance.normal(size=hour.shape)
    values[:110, 2] = np.nan
    return Windows(("a", "b", "late"), START, values)


def job(folder: Path, **settings: object) -> RollingJob:
    path = folder / "series.csv"
    rows_of(history()).sort("timestamp").write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    uri = f"sqlite:///{folder / 'runs.db'}"
    config = load_config(None, {"data.paths": [str(path)], "mlflow.tracking_uri": uri, **SMALL, **settings})
    return RollingJob(config, (1, 4), train_rows=96, first=100, stop=140, normalize="train", name="tiny")


class ProgressCounts:
    def __init__(self) -> None:
        self.rows, self.epochs, self.windows = 0, 0, 0

    def progress(self) -> Progress:
        return Progress(self._rows, lambda epoch: self._epoch(), self._windows)

    def _rows(self, count: int) -> None:
        self.rows += count

    def _epoch(self) -> None:
        self.epochs += 1

    def _windows(self, count: int) -> None:
        self.windows += count


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProgressCounts, Evaluated]:
    folder, counted = tmp_path_factory.mktemp("rolling"), ProgressCounts()
    return folder, counted, run_rolling(job(folder), counted.progress())


def test_every_member_is_scored_on_the_same_targets(
    evaluation: tuple[Path, ProgressCounts, Evaluated],
) -> None:
    scores = check_member_scores(evaluation[2].scores)
    members = scores["member"].unique(maintain_order=True).to_list()
    assert {"network", "persistence", "seasonal_naive"} <= set(members)
    for horizon in (1, 4):
        counts = scores.filter(pl.col("horizon") == horizon)["count"]
        # There are 40 test rows and 4 horizons, so the actuals of all horizons are known for 37 issue times.
        # The third series is not scored, because it has no training rows.
        assert counts.to_list() == [2 * 37 * horizon] * len(members)
    own = scores.filter(pl.col("member") == members[0])
    assert own.null_count().sum_horizontal().item() == 0


def test_json_lines_and_summary_of_an_evaluation_have_equal_scores(
    evaluation: tuple[Path, ProgressCounts, Evaluated],
) -> None:
    lines: list[dict[str, Any]] = json.loads(json.dumps(evaluation[2].lines()))
    whole: dict[str, Any] = json.loads(json.dumps(evaluation[2].as_json()))
    assert whole["series"] == 3
    assert whole["rows"] == ROWS
    assert whole["train_s"] > 0
    assert whole["replay_s"] > 0
    for line in lines:
        member, horizon = line.pop("member"), line.pop("horizon")
        assert whole["members"][member][str(horizon)] == line
        assert set(line) == {"count", *MEMBER_MEASURES, "coverage_by_series"}
    covered = lines[0]["coverage_by_series"]
    assert set(covered) == {"a", "b"}
    assert lines[0]["coverage_90"] == pytest.approx(np.mean(list(covered.values())))


def test_a_rolling_evaluation_reports_progress_and_unscored_series(
    evaluation: tuple[Path, ProgressCounts, Evaluated],
) -> None:
    _, counted, evaluated = evaluation
    assert counted.rows == int((~np.isnan(history().values)).sum())
    assert counted.epochs >= 1
    assert counted.windows == 136  # the evaluation reads 136 windows, up to its last issue time
    assert any("1 series have no value in the training rows" in line for line in evaluated.notices)


def test_settings_scores_and_tables_are_logged_to_mlflow(
    evaluation: tuple[Path, ProgressCounts, Evaluated],
) -> None:
    folder, _, evaluated = evaluation
    client = MlflowClient(f"sqlite:///{folder / 'runs.db'}")
    run = client.get_run(evaluated.run_id)
    assert run.info.run_name == "tiny"
    assert run.info.status == "FINISHED"
    assert run.data.params["evaluate.train_rows"] == "96"
    assert run.data.params["evaluate.horizons"] == "1,4"
    assert run.data.params["network.horizon"] == "4"
    tested = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert len(tested) <= 12
    member = evaluated.scores["member"][0]
    at_4 = evaluated.scores.filter((pl.col("member") == member) & (pl.col("horizon") == 4)).row(0, named=True)
    for measure in ("wql", "coverage_90", "width_90"):
        assert tested[f"test/{measure}"] == pytest.approx(at_4[measure])
    own, naive = (
        evaluated.by_step.filter(pl.col("model") == name).sort("horizon")["mae"].to_list()
        for name in (member, "persistence")
    )
    # The skill is the mean over the horizons 1, 3, 6, 12 and 24. The model forecasts horizons 1 to 4, so only
    # horizons 1 and 3 count; each of the other three adds 0.
    skill = sum(1 - own[h - 1] / naive[h - 1] for h in (1, 3)) / 5
    assert tested["test/skill_vs_persistence"] == pytest.approx(skill)
    curve = client.get_metric_history(evaluated.run_id, "test/mase_by_horizon_persistence")
    assert [point.value for point in sorted(curve, key=lambda p: p.step)] == pytest.approx(naive)
    names = {file.path for file in client.list_artifacts(evaluated.run_id)}
    assert {"scores.json", "scores_by_step.json", "coverage_by_series.json", "plots"} <= names


def test_evaluation_report_has_all_plots_and_a_heading_per_horizon(
    evaluation: tuple[Path, ProgressCounts, Evaluated],
) -> None:
    folder, _, evaluated = evaluation
    text = write_rolling(evaluated, folder / "report.html", {"data": "series.csv"}).read_text()
    assert "<h2>Horizon 1</h2>" in text
    assert "<h2>Horizon 4</h2>" in text
    assert text.count("<svg") == len(evaluated.figures) >= 6


def test_member_table_marks_the_coverage_nearest_to_90_percent() -> None:
    rows = {
        "member": ["combined", "network"],
        "horizon": [1, 1],
        **{measure: [1.0, 2.0] for measure in MEMBER_MEASURES},
        "coverage_90": [1.0, 0.89],
        "width_90": [3.0, 1.0],
    }
    table = member_table(pl.DataFrame(rows), 1)
    names = table.head[1:]
    assert (1, names.index("coverage_90")) in table.best
    assert (0, names.index("mse")) in table.best
    assert not {cell for cell in table.best if cell[1] == names.index("width_90")}


def test_default_quantiles_include_the_bounds_of_the_90_percent_interval(
    tmp_path: Path,
) -> None:
    assert {0.05, 0.5, 0.95} <= set(job(tmp_path).run_config.network.quantiles)
    named = job(tmp_path, **{"network.quantiles": "[0.2, 0.5, 0.8]"})
    assert named.run_config.network.quantiles == (0.2, 0.5, 0.8)
    assert named.run_config.network.horizon == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_rows": 150}, "holds 150 windows of 1h; training on the first 150 leaves no test rows"),
        ({"stop": 151}, "holds 150 windows of 1h, too few for test rows that end at 151"),
        ({"first": 90}, "among the 96 training rows"),
        ({"first": 137, "stop": 140}, "3 test rows"),
    ],
)
def test_unusable_ranges_of_training_and_test_rows_are_refused(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        windows_and_split(replace(job(tmp_path), **changes), history())  # type: ignore[arg-type]


def test_by_default_all_rows_after_training_are_scored(tmp_path: Path) -> None:
    _, split = windows_and_split(replace(job(tmp_path), first=None, stop=None), history())
    assert (split.first, split.stop) == (96, 150)
