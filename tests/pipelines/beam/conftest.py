"""Fixtures of tests of `ForecastFleet`: a small fleet, and the forecasts of its backfill."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from forecaster.time.windows import Windows
from tests.fleets import START, rows_of
from tests.pipelines.beam.fleet_pipelines import backfill


@pytest.fixture(scope="module")
def observed() -> Windows:
    """Return seven series of forty windows with gaps; one begins late, and six windows have no values."""
    values = np.random.default_rng(0).normal(size=(40, 7)).cumsum(axis=0) + 10.0 ** np.arange(7)
    values[np.random.default_rng(1).random(values.shape) < 0.1] = np.nan
    values[:20, 3] = np.nan
    values[24:30] = np.nan
    values[[0, 39], 0] = 1.0
    return Windows(tuple(f"s{i}" for i in range(7)), START, values)


@pytest.fixture(scope="module")
def backfilled(observed: Windows, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Return the forecasts of a backfill over the rows of the fixture ``observed``."""
    return backfill(rows_of(observed), tmp_path_factory.mktemp("backfill")).sort("issued_at", "series_id")
