"""A fleet as a file, small enough that a job over it takes a second or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecaster.time.windows import Windows
from tests.fleets import START, rows_of


@pytest.fixture(scope="session")
def small_fleet() -> Windows:
    """Twelve series of 120 windows: levels up to a billion, gaps, late beginnings and early ends."""
    chance = np.random.default_rng(3)
    values = chance.normal(size=(120, 12)).cumsum(axis=0) + np.logspace(0, 9, 12)
    values[chance.random(values.shape) < 0.1] = np.nan
    values[:50, 2:12:4] = np.nan
    values[30:60, 5] = np.nan
    values[100:, [4, 6]] = np.nan  # each is alone in its shard of 8
    return Windows(tuple(f"series {i}" for i in range(12)), START, values)


@pytest.fixture(scope="session")
def small_file(small_fleet: Windows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of `small_fleet`, in no order."""
    path = tmp_path_factory.mktemp("data") / "small.parquet"
    rows_of(small_fleet).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    return path
