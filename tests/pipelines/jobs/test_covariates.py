"""A job file with covariates: from training through the registry to a backfill's workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from forecaster.registry.registry import Registry
from forecaster.stepping import advance
from forecaster.windows import Windows
from pipelines.config import JobConfig
from pipelines.jobs.forecast import BackfillJob, run_backfill
from pipelines.jobs.train import run_training
from pipelines.sinks.files import read_forecasts
from pipelines.sources.covariates import with_tables
from pipelines.sources.files import Input
from pipelines.sources.tables import Columns
from tests.fleets import HOUR_US, START, assert_same_frames, rows_of, scales

HOURS, SERIES = 120, 4


def promoted() -> tuple[Windows, pl.DataFrame]:
    chance = np.random.default_rng(0)
    on = chance.random((HOURS + 9, SERIES)) < 0.3
    ids = tuple(f"s{i}" for i in range(SERIES))
    values = np.where(on[:HOURS], 2.0, 1.0) + 0.1 * chance.normal(size=(HOURS, SERIES))
    at, series = np.indices(on.shape)
    hours = pl.Series((START + at.ravel()) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    known = {"series_id": [ids[s] for s in series.ravel()], "timestamp": hours, "promotion": on.ravel()}
    return Windows(ids, START, values), pl.DataFrame(known)


def test_what_is_known_goes_from_the_job_file_into_the_weights_and_to_the_workers(tmp_path: Path) -> None:
    fleet, known = promoted()
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
    bare = registry.load("shops")
    assert bare.version == outcome.version.model_version
    assert [column.name for column in bare.covariates.features.known] == ["promotion"]
    model = with_tables(bare, config.covariates)

    job = BackfillJob(model, (str(tmp_path / "rows.parquet"),), Input(Columns()), tmp_path / "out", shards=2)
    assert run_backfill(job).counts.missing == 0
    backfill = read_forecasts(tmp_path / "out")
    _, said = advance(model, model.initial_state(), fleet)
    assert_same_frames(backfill, said.frame(), scales(fleet))
    _, without = advance(bare, bare.initial_state(), fleet)
    assert np.abs(said.values - without.values).max() > 1e-3
