"""Law: no forecast of a rolling evaluation depends on rows of the file after its issue time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

from forecaster.arrays import Floats
from forecaster.evaluation.rolling import rolling_forecasts
from forecaster.time.aggregation import aggregate
from forecaster.training.train import train
from pipelines.jobs.rolling import RollingJob, windows_and_split
from pipelines.settings.job_file import load_config
from pipelines.sources.files.load_all import load_observations

TRAIN_ROWS, FIRST, STOP, HORIZON = 120, 130, 160, 3
Normalize = Literal["none", "train"]


def values() -> Floats:
    """Return the values of three series, ``[170, 3]``.

    The second series has gaps. The level of the third series is so high, 10,000, that its forecasts would
    show it if they were normalized with a mean that includes later rows.
    """
    rng = np.random.default_rng(0)
    hour = np.arange(170.0)[:, None] + np.array([0.0, 5.0, 11.0])
    found: Floats = np.sin(2 * np.pi * hour / 24) * 3 + rng.normal(size=hour.shape).cumsum(axis=0)
    found[rng.random(170) < 0.1, 1] = np.nan
    found += np.array([0.0, 20.0, 1e4])
    return found


def values_with_other_future(t: int) -> Floats:
    """Return the array of `values` up to row ``t``, and different values and gaps in the rows after it."""
    rng = np.random.default_rng(t)
    found = values()
    found[t + 1 :] = 1e3 * rng.normal(size=found[t + 1 :].shape)
    found[t + 1 : -1][rng.random(found[t + 1 : -1].shape) < 0.2] = np.nan
    return found


def forecasts(path: Path, history: Floats, normalize: Normalize) -> tuple[dict[str, Floats], Floats]:
    """Return the forecasts of a rolling evaluation over ``history``, which is written to a file.

    Returns the forecasts ``[Q, T, S, N]`` of each member, and the numbers of the rows that issue them.
    """
    begin = datetime(2013, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(hours=n) for n in range(len(history))]
    frame = pl.DataFrame({"time": times, **{f"s{i}": column for i, column in enumerate(history.T)}})
    frame.fill_nan(None).write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    small = {"network.hidden": 4, "network.layers": 1, "network.horizon": HORIZON, "training.epochs": 1}
    config = load_config(None, {"data.paths": [str(path)], "data.layout": "wide", **small})
    job = RollingJob(config, (1, HORIZON), TRAIN_ROWS, FIRST, STOP, normalize)
    read = aggregate(load_observations(config).rows, job.run_config.windows)
    windows, split = windows_and_split(job, read.windows)
    learned_from = windows.between(windows.start, windows.start + TRAIN_ROWS)
    run_config = job.run_config
    trained = train(learned_from, run_config.network, run_config.training, run_config.windows)
    blocks = list(rolling_forecasts(trained.forecaster, windows, split))
    members = {
        name: np.concatenate([block.members[name].values for block in blocks], axis=1)
        for name in blocks[0].members
    }
    return members, np.concatenate([block.rows for block in blocks])


@lru_cache(maxsize=2)
def unchanged_forecasts(folder: Path, normalize: Normalize) -> tuple[dict[str, Floats], Floats]:
    return forecasts(folder / "came.csv", values(), normalize)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("normalize", ["none", "train"])
@pytest.mark.parametrize("t", [FIRST - 1, 140, 155])
def test_rolling_forecasts_do_not_depend_on_later_rows(folder: Path, t: int, normalize: Normalize) -> None:
    one, rows = unchanged_forecasts(folder, normalize)
    two, _ = forecasts(folder / "other.csv", values_with_other_future(t), normalize)
    assert rows.tolist() == list(range(FIRST - 1, STOP - HORIZON))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name][:, rows <= t], two[name][:, rows <= t], err_msg=name)
        # Seasonal naive repeats the values of the day before, which may all lie before the changed rows.
        if name != "seasonal_naive":
            assert not np.array_equal(one[name][:, rows > t], two[name][:, rows > t]), name


def test_rows_between_training_and_test_change_network_forecasts(folder: Path) -> None:
    one, rows = unchanged_forecasts(folder, "train")
    other = values()
    other[TRAIN_ROWS + 2] += 5.0
    two, _ = forecasts(folder / "other.csv", other, "train")
    middle, at = 1, rows == FIRST - 1
    assert not np.array_equal(two["network"][middle, at], one["network"][middle, at])
    np.testing.assert_array_equal(two["persistence"][middle, at], one["persistence"][middle, at])
