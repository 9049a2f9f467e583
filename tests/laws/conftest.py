"""Fixtures for the tests in this folder: a small fleet of series, and a Parquet file of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecaster.time.windows import Windows
from tests.fleets import START, rows_of


@pytest.fixture(scope="session")
def small_fleet() -> Windows:
    """Return twelve series of 120 windows.

    Some have values near 1e9, some have gaps, and some begin after the first window or end before the last.
    """
    rng = np.random.default_rng(3)
    values = rng.normal(size=(120, 12)).cumsum(axis=0) + np.logspace(0, 9, 12)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:50, 2:12:4] = np.nan
    values[30:60, 5] = np.nan
    # With 8 shards, series 4 and series 6 each have a shard of their own; these two shards get no rows after
    # window 99.
    values[100:, [4, 6]] = np.nan
    return Windows(tuple(f"series {i}" for i in range(12)), START, values)


@pytest.fixture(scope="session")
def small_file(small_fleet: Windows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the rows of `small_fleet` to a Parquet file, in random order, and return its path."""
    path = tmp_path_factory.mktemp("data") / "small.parquet"
    rows_of(small_fleet).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    return path
