"""Tests of the production scores of a stream, which it logs to MLflow for each model version."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from forecaster.evaluation.drift import InputDrift
from forecaster.registry.registry import Registry
from forecaster.shards.counts import Counts
from pipelines.jobs import production
from pipelines.jobs.production import ProductionRuns
from pipelines.sinks.numbers import JobNumbers
from tests.pipelines.jobs.production_jobs import Job, Store, numbers, scored, wait_until


def test_each_mlflow_step_has_the_scores_since_the_previous_step(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    job.take(numbers(5), after_s=59.0)
    job.take(numbers(10, drift=True), after_s=1.0)
    job.take(numbers(30))
    job.take(numbers(40), after_s=1.0)
    job.runs.close()
    (points,) = store.points.values()
    assert [(step, metrics["production/scored_h1"]) for step, metrics in points] == [
        (10, 10),
        (30, 20),
        (40, 10),
    ]
    first = points[0][1]
    assert (first["production/mase_h1"], first["production/bias_h1"]) == (2.0, -2.0)
    assert (first["production/pinball_h1"], first["production/coverage_h1"]) == (1.0, 1.0)
    assert first["production/drift_value"] == pytest.approx(0.0)
    (tags,) = store.tags.values()
    assert tags == {"model_version": "lstm-1", "statecast.output": str(tmp_path)}
    assert store.ended == ["production-0"]
    assert not job.lines


def test_scores_within_one_logging_period_are_logged_together(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    job.take(numbers(10))
    job.take(numbers(20), after_s=1.0)
    job.take(numbers(30), after_s=1.0)
    job.runs.close()
    (points,) = store.points.values()
    assert scored(points) == [(10, 10), (30, 20)]


def test_a_long_pause_makes_one_batch_of_scores_due(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    for windows, after_s in ((10, 500.0), (20, 1.0), (30, 1.0)):
        job.take(numbers(windows), after_s)
    job.runs.close()
    (points,) = store.points.values()
    assert scored(points) == [(10, 10), (30, 20)]


def test_each_model_version_has_a_separate_production_run(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    job.take(numbers(10, "lstm-1"))
    job.take(numbers(10, "lstm-1", "gru-2"))
    job.runs.close()
    versions = {tags["model_version"]: len(store.points[run]) for run, tags in store.tags.items()}
    assert versions == {"lstm-1": 1, "gru-2": 1}


def test_equal_notices_of_two_production_runs_are_reported_once(tmp_path: Path) -> None:
    store = Store()
    store.notices = ["the store refused the metric production/mase_h1: bad name"]
    job = Job(store, tmp_path)
    job.take(numbers(10, "lstm-1", "gru-2"))
    job.runs.close()
    assert job.lines == store.notices


def test_an_input_with_too_few_values_has_no_drift_metric(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    found = numbers(10)
    few = {"value": InputDrift((0,) * 10), "heat": InputDrift([100] * 10, [100.0] * 10)}
    job.take(JobNumbers(found.counts, drift=few))
    job.runs.close()
    ((_, metrics),) = next(iter(store.points.values()))
    assert {name for name in metrics if "drift" in name} == {"production/drift_heat"}


def test_a_damaged_production_file_begins_a_new_mlflow_run(tmp_path: Path) -> None:
    store = Store()
    before = Job(store, tmp_path)
    before.take(numbers(30))
    before.runs.close()
    [record] = [path for path in tmp_path.iterdir() if "production" in path.name]
    for content in ("{", "[]", '{"logged": 5}'):
        record.write_text(content)
        after = Job(store, tmp_path, is_resume=True)
        after.take(numbers(40))
        after.runs.close()
        assert scored(list(store.points.values())[-1]) == [(40, 40)]
    assert len(store.points) == 4


def test_no_scores_are_logged_before_a_forecast_is_scored(tmp_path: Path) -> None:
    store = Store()
    job = Job(store, tmp_path)
    job.take(JobNumbers(Counts(windows=3)))
    job.runs.close()
    assert not store.points
    assert not job.lines


def test_a_resume_continues_the_production_run_without_repeating_scores(tmp_path: Path) -> None:
    store = Store()
    before = Job(store, tmp_path)
    before.take(numbers(30))
    before.runs.close()
    after = Job(store, tmp_path, is_resume=True)
    # The stream resumed from an older snapshot: it has scored 20 forecasts, but 30 scores are logged already.
    after.take(numbers(20))
    after.take(numbers(35))
    after.runs.close()
    (points,) = store.points.values()
    assert scored(points) == [(30, 30), (35, 5)]
    fresh = Job(store, tmp_path)
    fresh.take(numbers(7))
    fresh.runs.close()
    assert len(store.points) == 2


def test_unlogged_scores_are_kept_while_the_store_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production, "_RETRY_S", 0.05)
    store = Store()
    store.away = True
    job = Job(store, tmp_path)
    job.take(numbers(10))
    wait_until(store.is_asked.is_set)
    job.take(numbers(20))
    wait_until(lambda: bool(job.lines))
    assert job.lines == [
        "scores wait until they can be logged to MLflow: http://nowhere:5000 cannot be reached"
    ]
    store.away = False
    wait_until(lambda: sum(map(len, store.points.values())) == 2)
    job.runs.close()
    assert len(job.lines) == 1
    assert store.ended


def test_a_resumed_stream_repeats_no_score_of_any_version(tmp_path: Path) -> None:
    store = Store()
    before = Job(store, tmp_path)
    before.take(numbers(10, "a", "b"))
    before.take(numbers(30, "a", "b"))
    before.runs.close()
    after = Job(store, tmp_path, is_resume=True)
    # The shard with the series of model version a resumes from an older snapshot than the shard of version b,
    # so version a has fewer scores than before the resume.
    scores = {"a": numbers(20, "a").counts.scores["a"], "b": numbers(35, "b").counts.scores["b"]}
    after.take(JobNumbers(Counts(windows=35, scores=scores)))
    after.take(numbers(40, "a", "b"))
    after.runs.close()
    by_version = {tags["model_version"]: scored(store.points[run]) for run, tags in store.tags.items()}
    assert by_version == {
        "a": [(10, 10), (30, 20), (40, 10)],
        "b": [(10, 10), (30, 20), (35, 5), (40, 5)],
    }


def test_oldest_scores_are_dropped_when_too_many_are_unlogged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production, "_MOST_BATCHES", 3)
    store = Store()
    store.away = True
    job = Job(store, tmp_path)
    for windows in range(1, 6):
        job.take(numbers(windows))
        assert job.runs._dropped == max(windows - 3, 0)
    began_s = time.monotonic()
    job.runs.close()
    assert time.monotonic() - began_s < 10
    assert job.lines[-1] == "5 batches of scores were not logged to the run production in MLflow"
    assert len(job.lines) == 2


def test_logging_a_batch_dropped_meanwhile_removes_no_queued_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full queue drops the first batch while it is being logged.

    Usually, a logged batch is removed from the front of the queue; here, the batch at the front must stay.
    """
    monkeypatch.setattr(production, "_MOST_BATCHES", 3)
    store, answers = Store(), threading.Event()

    def answer() -> None:
        store.is_asked.set()
        assert answers.wait(30)

    monkeypatch.setattr(store, "check", answer)
    job = Job(store, tmp_path)
    job.take(numbers(1))
    wait_until(store.is_asked.is_set)
    for windows in range(2, 6):
        job.take(numbers(windows))
    answers.set()
    job.runs.close()
    (points,) = store.points.values()
    assert scored(points) == [(1, 1), (3, 1), (4, 1), (5, 1)]


def test_an_ending_job_waits_a_limited_time_for_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production, "_END_LIMIT_S", 0.2)
    store, answered = Store(), threading.Event()
    monkeypatch.setattr(store, "check", lambda: answered.wait(30))
    job = Job(store, tmp_path)
    job.take(numbers(1))
    job.runs.close()
    assert job.lines == ["1 batch of scores was not logged to the run production in MLflow"]
    answered.set()
    job.runs._thread.join()


def test_a_resumed_stream_finishes_its_production_run_in_sqlite(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    lines: list[str] = []
    for is_resume, windows in ((False, 30), (True, 40)):
        runs = ProductionRuns(
            lambda run_id: Registry(uri, run_id=run_id), tmp_path, 60.0, lines.append, is_resume=is_resume
        )
        runs.take(numbers(windows))
        runs.close()
    assert not lines
    found = Registry(uri).runs()
    assert found["name"].to_list() == ["production"]
    assert found["status"].to_list() == ["FINISHED"]
