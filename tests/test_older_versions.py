"""Tests that models, state tables and forecasts of version 0.1.0 can be read.

Modules have other names since then.
"""

from __future__ import annotations

import math
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.model import Forecaster
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from schemas.forecasts import IDENTITY

WRITTEN = Path(__file__).parent / "written_by_0_1_0"


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return Forecaster.load(WRITTEN / "registered_model/data/forecaster")


def rows() -> pl.DataFrame:
    """Return the rows that the job of the stored state table has read: 200 hourly windows of three series."""
    return pl.read_csv(WRITTEN / "rows.csv", try_parse_dates=True)


def later_rows() -> pl.DataFrame:
    """Return rows of the 48 hourly windows after `rows`, computed by a formula."""
    end = rows()["timestamp"].max()
    assert end is not None
    hours = range(1, 49)
    return pl.DataFrame(
        {
            "series_id": [f"s{s}" for _ in hours for s in range(3)],
            "timestamp": [end + timedelta(hours=hour) for hour in hours for _ in range(3)],  # type: ignore[operator]
            "value": [10 * s + 5 * math.sin(hour / 4) + hour % 7 for hour in hours for s in range(3)],
        },
        schema=rows().schema,
    )


def backfill(model: Forecaster, frame: pl.DataFrame, folder: Path, table: Path | None = None) -> pl.DataFrame:
    folder.mkdir()
    frame.write_parquet(folder / "rows.parquet")
    paths = (str(folder / "rows.parquet"),)
    run_backfill(BackfillJob(model, paths, Input(Columns()), folder / "out", shards=2, state_table=table))
    return read_forecasts(folder / "out")


def assert_same_forecasts(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert_frame_equal(one.sort(IDENTITY), other.sort(IDENTITY), rel_tol=0, abs_tol=1e-4)


def test_a_backfill_continues_from_a_0_1_0_state_table(model: Forecaster, tmp_path: Path) -> None:
    whole = backfill(model, pl.concat([rows(), later_rows()]), tmp_path / "whole")
    continued = backfill(model, later_rows(), tmp_path / "continued", WRITTEN / "state")
    assert continued.height == 3 * 48
    new = whole.filter(pl.col("issued_at") > rows()["timestamp"].max() + timedelta(hours=1))  # type: ignore[operator]
    assert_same_forecasts(continued, new)


def test_a_model_of_version_0_1_0_repeats_its_stored_forecasts(model: Forecaster, tmp_path: Path) -> None:
    stored = read_forecasts(WRITTEN)
    assert stored.height > 0
    computed = backfill(model, rows(), tmp_path / "again").join(
        stored, on=["series_id", "issued_at"], how="semi"
    )
    assert_same_forecasts(computed, stored)


@pytest.mark.parametrize("loader", ["forecaster.registry.loader", "forecaster.serving"])
def test_mlflow_loads_a_0_1_0_model_through_either_loader_module(loader: str, tmp_path: Path) -> None:
    from mlflow.pyfunc import load_model

    folder = tmp_path / "model"
    shutil.copytree(WRITTEN / "registered_model", folder)
    description = (folder / "MLmodel").read_text()
    assert "loader_module: forecaster.registry.loader" in description
    (folder / "MLmodel").write_text(description.replace("forecaster.registry.loader", loader))
    history = (
        rows()
        .filter(pl.col("series_id") == "s0")
        .with_columns(pl.col("timestamp").dt.replace_time_zone(None))
    )
    answer: Any = load_model(str(folder)).predict(history.to_pandas())
    assert answer["horizon"].tolist() == [1, 2, 3]
    assert answer["q50"].notna().all()
