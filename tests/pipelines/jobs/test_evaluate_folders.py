"""Tests of the scores of `backtest` and of ``statecast evaluate``, and of the MLflow run of an evaluation.

If ``windows.empty`` is "zero", both also score the windows without rows; the actual is 0 in these windows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient
from polars.testing import assert_frame_equal

from forecaster.evaluation.backtest import backtest
from forecaster.registry.registry import Registry
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows, observed
from pipelines.jobs import evaluate
from pipelines.jobs.evaluate import evaluate_folders
from pipelines.jobs.evaluate_log import log_evaluations
from pipelines.settings.config import JobConfig
from tests.fleets import START, forecaster, rows_of

EVENTS = forecaster(aggregate="sum", empty="zero")
HOURS = 60
SPLIT = 40  # only the forecasts issued at the end of window 40 of `events`, or later, are scored


def events() -> Windows:
    """Return the hourly numbers of events of three series; about two of three numbers are missing (NaN).

    One series begins after the first hour, and one ends before the last.
    """
    chance = np.random.default_rng(0)
    values = chance.poisson(4.0, size=(HOURS, 3)).astype(np.float64)
    values[chance.random(values.shape) < 0.67] = np.nan
    values[:10, 1], values[25:, 2] = np.nan, np.nan
    values[[0, 10, 1, HOURS - 1], [0, 1, 2, 0]] = 5.0
    return Windows(("a", "b", "c"), START, values)


def assert_every_window_counts(scores: pl.DataFrame) -> None:
    """Assert that the model and the baselines are scored on every window from ``SPLIT + horizon`` on.

    Windows without events count, too.
    """
    for model in ("lstm", "persistence", "seasonal naive"):
        count = scores.filter(pl.col("model") == model).sort("horizon")["count"].to_list()
        assert count == [3 * (HOURS - SPLIT - horizon) for horizon in (1, 2, 3)]
    assert scores["mae"].is_finite().all()


def test_a_backtest_uses_actual_0_for_windows_without_events() -> None:
    found = backtest(EVENTS, events(), SPLIT)
    assert found is not None
    scores = found.comparison.scores
    assert_every_window_counts(scores)
    same = forecaster(aggregate="sum")
    other = backtest(same, observed(events(), EVENTS.window_config), SPLIT)
    assert other is not None
    order = ["model", "horizon"]
    assert_frame_equal(scores.sort(order), other.comparison.scores.sort(order), rel_tol=1e-5)


def test_windows_without_rows_are_scored_if_empty_is_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, forecasts = advance(EVENTS, EVENTS.initial_state(), events())
    first = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=SPLIT + 1)
    issued = forecasts.frame().filter(pl.col("issued_at") >= first)
    loaded = SimpleNamespace(rows=rows_of(events()), notices=(), skipped=())
    monkeypatch.setattr(evaluate, "read_forecasts", lambda folder: issued)
    monkeypatch.setattr(evaluate, "load_observations", lambda *given, **named: loaded)
    settings = {"data": {"paths": ["x"]}, "windows": {"freq": "1h", "aggregate": "sum", "empty": "zero"}}
    assert_every_window_counts(evaluate_folders(JobConfig.model_validate(settings), [Path("x")]).scores)


def test_all_models_are_scored_on_the_same_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is scored on the first day, because seasonal naive has no forecasts for it."""
    model = forecaster()
    hours = np.arange(HOURS, dtype=np.float64)[:, None]
    _, forecasts = advance(model, model.initial_state(), Windows(("a",), START, hours))
    loaded = SimpleNamespace(rows=rows_of(Windows(("a",), START, hours)), notices=(), skipped=())
    monkeypatch.setattr(evaluate, "read_forecasts", lambda folder: forecasts.frame())
    monkeypatch.setattr(evaluate, "load_observations", lambda *given, **named: loaded)
    scores = evaluate_folders(JobConfig.model_validate({"data": {"paths": ["x"]}}), [Path("x")]).scores
    for model_name in ("lstm", "persistence", "seasonal naive"):
        counts = scores.filter(pl.col("model") == model_name).sort("horizon")["count"].to_list()
        # At each horizon h, the actual is known for ``HOURS - h`` forecasts. Seasonal naive cannot forecast
        # the targets of the first ``24 - h`` forecasts, so no model is scored on these targets.
        assert counts == [HOURS - 1 - 23, HOURS - 2 - 22, HOURS - 3 - 21]


def test_an_evaluation_is_logged_as_a_run_linked_to_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = forecaster()
    hours = np.sin(np.arange(HOURS) / 4)[:, None] + np.array([0.0, 1.0])
    windows = Windows(("a", "b"), START, hours)
    _, forecasts = advance(model, model.initial_state(), windows)
    loaded = SimpleNamespace(rows=rows_of(windows), notices=(), skipped=())
    monkeypatch.setattr(evaluate, "read_forecasts", lambda folder: forecasts.frame())
    monkeypatch.setattr(evaluate, "load_observations", lambda *given, **named: loaded)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Registry(uri).start_run("trained", {}) as trained:
        trained.log_model(model, "tiny", rows_of(windows).head(3))
    settings = {"data": {"paths": ["x.csv"]}, "mlflow": {"tracking_uri": uri}}
    job = JobConfig.model_validate(settings)
    runs = log_evaluations(job, evaluate_folders(job, [Path("x")]))
    assert list(runs) == [model.version]
    client = MlflowClient(uri, uri)
    run = client.get_run(runs[model.version])
    assert run.data.params["evaluate.issued_from"].startswith("2013-01-01 22:00:00")
    assert run.data.metrics["test/skill_vs_persistence"] < 1
    assert len([name for name in run.data.metrics if "_by_" not in name]) <= 12
    assert {file.path for file in client.list_artifacts(run.info.run_id, "test")} == {
        "test/scores.json",
        "test/series.json",
    }
    assert run.inputs is not None
    [data] = run.inputs.dataset_inputs
    assert data.dataset.name.startswith("x.csv 2013-01-01 to ")
    model_id = client.get_model_version("tiny", "1").tags["statecast.logged_model"]
    assert [one.model_id for one in run.inputs.model_inputs] == [model_id]
    scores = {metric.key for metric in client.get_logged_model(model_id).metrics or []}
    assert "test/wql" in scores
