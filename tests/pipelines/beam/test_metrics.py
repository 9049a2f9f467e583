"""Tests of Beam's counters of the rows, windows and forecasts of `ForecastFleet` and of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from forecaster.time.windows import Windows
from pipelines.beam.forecast_fleet import ForecastFleet
from pipelines.jobs.forecast import run_stream
from pipelines.runners.base import Run
from pipelines.runners.job_pipeline import build_pipeline
from pipelines.runners.prism import PrismServer, prism_options
from pipelines.workers import worker
from tests.fleets import START, forecaster, rows_of
from tests.pipelines.beam.fleet_pipelines import IN_PROCESS, counters, read_output, run
from tests.pipelines.jobs.replays import replay_job, stopped_at


def test_forecast_fleet_counts_rows_windows_and_forecasts(observed: Windows, tmp_path: Path) -> None:
    rows = rows_of(observed)
    bad = {"series_id": "s1", "timestamp": "never", "value": 1.0}
    found = run(IN_PROCESS, beam.Create([rows, bad, bad]), ForecastFleet(forecaster(), shards=1), tmp_path)
    forecasts = read_output(tmp_path, "forecasts")
    assert found == {
        "rows_in": len(rows) + 2,
        "rows_used": len(rows),
        "rows_quarantined": 2,
        "windows_closed": forecasts["issued_at"].n_unique(),
        "forecasts": len(forecasts),
    }


@pytest.mark.prism
def test_a_resumed_job_counts_only_its_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, int]] = []

    def run_and_count(run: Run, on_progress: Callable[[], None]) -> None:
        with PrismServer(tmp_path / "prism.log") as prism:
            pipeline = beam.Pipeline(options=PipelineOptions(prism_options(prism.endpoint)))
            build_pipeline(pipeline, run)
            result = pipeline.run()
            result.wait_until_finish()
            found.append(counters(result))
        worker.end_job(run.settings.job)

    monkeypatch.setattr("pipelines.runners.on_prism.run_on_prism", run_and_count)
    rows = rows_of(Windows(("a", "b", "c"), START, np.random.default_rng(0).normal(size=(20, 3))))
    rows.write_parquet(tmp_path / "rows.parquet")
    job = replace(replay_job(tmp_path / "out", tmp_path / "rows.parquet"), runner="prism", shards=1)
    assert run_stream(stopped_at(job, 18)).stopped
    run_stream(replace(job, resume=True))
    assert found == [
        {"rows_in": 18, "rows_used": 18, "windows_closed": 6, "forecasts": 18},
        {"rows_in": 42, "rows_used": 42, "windows_closed": 14, "forecasts": 42},
    ]
