"""Law: a served model returns the forecasts of a backfill.

A request contains either the whole history of a series, or only new rows, which continue a stored state.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster import Forecaster, NetworkConfig, WindowConfig
from forecaster.serving import ServedForecaster
from pipelines import BackfillJob, Columns, Input, run_backfill
from tests.forecaster.registry.models import history

MODEL = Forecaster.untrained(NetworkConfig(hidden=8, layers=2, horizon=6), WindowConfig())
HOURS = 400


def rows() -> pl.DataFrame:
    """Return 400 hours of two series with noise and gaps; series b begins after 100 hours."""
    rng = np.random.default_rng(3)
    noisy = history(HOURS).with_columns(pl.col("value") + rng.normal(size=2 * HOURS))
    kept = rng.random(2 * HOURS) > 0.1
    late = (pl.col("series_id") == "a") | (pl.int_range(HOURS).over("series_id") >= 100)
    newest = pl.int_range(HOURS).over("series_id") == HOURS - 1
    return noisy.filter(late & (pl.Series(kept) | newest))


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Return the last forecasts of a backfill over `rows`, with one row for each series and horizon."""
    folder: Path = tmp_path_factory.mktemp("backfill")
    rows().write_parquet(folder / "rows.parquet")
    job = BackfillJob(MODEL, (str(folder / "rows.parquet"),), Input(Columns()), folder / "out", shards=1)
    run_backfill(job)
    issued = pl.read_parquet(folder / "out" / "forecasts" / "**" / "*.parquet")
    last = issued.filter(pl.col("issued_at") == issued["issued_at"].max()).sort("series_id")
    return last.explode("forecast").unnest("forecast")


def printed(answer: pl.DataFrame) -> list[str]:
    return [f"{number!r}" for number in answer.select("q5", "q50", "q95").to_numpy().ravel().tolist()]


def test_served_forecasts_of_a_history_equal_backfill_forecasts_exactly(backfilled: pl.DataFrame) -> None:
    answer = ServedForecaster(MODEL).predict(rows())
    assert printed(answer) == printed(backfilled)
    assert answer["issued_at"].to_list() == backfilled["issued_at"].to_list()


@pytest.mark.parametrize("cuts", [[5], [37, 250], [64, 99, 160], [HOURS - 1]], ids=str)
def test_served_requests_with_a_state_give_the_forecasts_of_a_backfill(
    backfilled: pl.DataFrame, cuts: list[int]
) -> None:
    served, state, begin = ServedForecaster(MODEL), "", datetime(2013, 1, 1, tzinfo=UTC)
    hour = (pl.col("timestamp") - begin).dt.total_hours()
    answer: Any = None
    for first, stop in zip([0, *cuts], [*cuts, HOURS], strict=True):
        part = rows().filter(hour.is_between(first, stop, closed="left"))
        answer = served.predict(part, {"state": state, "return_state": True})
        state = answer["state"]
    found = pl.DataFrame(answer["forecasts"])
    expected = backfilled.select("q5", "q50", "q95").to_numpy()
    np.testing.assert_allclose(found.select("q5", "q50", "q95").to_numpy(), expected, rtol=1e-5)
    assert set(found["issued_at"]) == {begin + timedelta(hours=HOURS)}
