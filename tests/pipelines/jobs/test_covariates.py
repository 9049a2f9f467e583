"""Tests that trainings, backfills and streams use the covariates that a job file names."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.registry.registry import Registry
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.jobs.train import run_training
from pipelines.settings.config import JobConfig
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.covariates import with_tables
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input, input_of
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, HOUR_US, START, rows_of, scales, with_heat

HOURS, SERIES = 120, 4


def promoted_fleet() -> tuple[Windows, pl.DataFrame]:
    """Return windows, and a table of promotions for these windows and the 9 windows after them.

    A promotion doubles the level of a series.
    """
    chance = np.random.default_rng(0)
    on = chance.random((HOURS + 9, SERIES)) < 0.3
    ids = tuple(f"s{i}" for i in range(SERIES))
    values = np.where(on[:HOURS], 2.0, 1.0) + 0.1 * chance.normal(size=(HOURS, SERIES))
    at, series = np.indices(on.shape)
    hours = pl.Series((START + at.ravel()) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    known = {"series_id": [ids[s] for s in series.ravel()], "timestamp": hours, "promotion": on.ravel()}
    return Windows(ids, START, values), pl.DataFrame(known)


def test_known_covariates_are_used_in_training_and_backfill(tmp_path: Path) -> None:
    fleet, known = promoted_fleet()
    rows_of(fleet).write_parquet(tmp_path / "rows.parquet")
    known.write_csv(tmp_path / "known.csv")
    (tmp_path / "static.csv").write_text("series_id,size\ns0,1\ns1,2\ns2,3\n")
    network = {"hidden": 4, "layers": 1, "horizon": 3, "lags": [1, 2], "ring": 4, "decoder": True}
    config = JobConfig.model_validate(
        {
            "data": {"paths": [str(tmp_path / "rows.parquet")]},
            "covariates": {"known": str(tmp_path / "known.csv"), "static": str(tmp_path / "static.csv")},
            "network": network,
            "training": {"epochs": 1, "segment": 16},
            "mlflow": {"tracking_uri": f"sqlite:///{tmp_path}/runs.db", "model": "shops"},
        }
    )
    outcome = run_training(config, "shops")
    registry = Registry(config.mlflow.tracking_uri, config.mlflow.experiment)
    bare = registry.load("shops/1")
    assert bare.version == outcome.version.model_version
    assert [column.name for column in bare.covariates.features.known] == ["promotion"]
    model = with_tables(bare, config.covariates)

    job = BackfillJob(model, (str(tmp_path / "rows.parquet"),), Input(Columns()), tmp_path / "out", shards=2)
    assert run_backfill(job).counts.missing == 0
    backfill = read_forecasts(tmp_path / "out")
    _, forecasts = advance(model, model.initial_state(), fleet)
    assert_same_frames(backfill, forecasts.frame(), scales(fleet))
    _, without_covariates = advance(bare, bare.initial_state(), fleet)
    assert np.abs(forecasts.values - without_covariates.values).max() > 1e-3


def write_heated_rows(folder: Path) -> tuple[Path, Windows]:
    """Write a file of rows with the covariate ``heat``; two of the rows are invalid.

    Returns the path of the file, and the windows of the valid rows.
    """
    chance = np.random.default_rng(0)
    bare = Windows(tuple(f"s{i}" for i in range(SERIES)), START, chance.normal(size=(HOURS, SERIES)))
    fleet = with_heat(bare)
    rows = rows_of(fleet).rename({"observed.heat": "heat"}).sort("timestamp")
    rows = rows.with_columns(pl.col("heat").cast(pl.String))
    wrong = rows.head(2).with_columns(pl.Series("heat", ["warm", "inf"]), pl.lit("s9").alias("series_id"))
    pl.concat([rows, wrong]).write_csv(folder / "rows.csv", datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    return folder / "rows.csv", fleet


def test_observed_covariates_are_used_in_backfills_and_streams(
    tmp_path: Path,
) -> None:
    path, fleet = write_heated_rows(tmp_path)
    network = {"hidden": 4, "layers": 1, "horizon": 3, "lags": [1, 2], "ring": 4}
    config = JobConfig.model_validate(
        {
            "data": {"paths": [str(path)]},
            "covariates": {"observed": ["heat"]},
            "network": network,
            "training": {"epochs": 1, "segment": 16},
            "mlflow": {"tracking_uri": f"sqlite:///{tmp_path}/runs.db", "model": "heated"},
        }
    )
    run_training(config, "heated")
    model = Registry(config.mlflow.tracking_uri, config.mlflow.experiment).load("heated")
    assert model.covariates.features.observed == ("heat",)

    rows, paths = input_of(config, HOUR), (str(path),)
    counts = run_backfill(BackfillJob(model, paths, rows, tmp_path / "out", shards=2)).counts
    assert (counts.missing, counts.rejected, counts.used) == (0, 2, HOURS * SERIES)
    assert set(read_quarantine(tmp_path / "out")["column"]) == {"heat"}
    _, forecasts = advance(model, model.initial_state(), fleet)
    assert_same_frames(read_forecasts(tmp_path / "out"), forecasts.frame(), scales(fleet))
    _, without_covariates = advance(model, model.initial_state(), replace(fleet, past={}))
    assert np.abs(forecasts.values - without_covariates.values).max() > 1e-4

    source = ReplaySource(paths, rows, HOUR, windows_per_step=7)
    job = StreamJob(model, source, tmp_path / "stream", shards=3, windows_per_step=5, runner="in-process")
    assert run_stream(job).counts.missing == 0
    assert_same_frames(read_forecasts(tmp_path / "stream"), forecasts.frame(), scales(fleet))
    table = state_table.read(tmp_path / "stream" / "state").state
    assert "past.heat.mean" in table.frame().columns

    watched = StreamJob(
        model,
        FolderSource(tmp_path / "in", rows, tmp_path / "watched" / "state", poll_s=0.02),
        tmp_path / "watched",
        runner="in-process",
    )
    (tmp_path / "in").mkdir()
    shutil.copy(path, tmp_path / "in")
    os.utime(tmp_path / "in" / "rows.csv", (0, 0))

    def stop_when_read(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in == HOURS * SERIES + 2:
            request_stop(watched.stop_file)

    run_stream(watched, stop_when_read)
    issued = read_forecasts(tmp_path / "watched")
    expected = forecasts.frame().filter(pl.col("issued_at") <= issued["issued_at"].max())
    assert_same_frames(issued, expected, scales(fleet))
