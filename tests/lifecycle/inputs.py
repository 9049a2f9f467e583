"""The data of `tests.lifecycle`: a history, a file for each later day, and noise to train a bad model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.storage import write_whole

SERIES = 12
HISTORY_DAYS = 60
HORIZON = 6
SCALE = 3 * 2**0.5 / 2  # standard deviation of a wave of amplitude 3; forecast differences are divided by it
_START = datetime(2015, 1, 1, tzinfo=UTC)
_HOUR_US = 3_600_000_000


def day_frame(day: int) -> pl.DataFrame:
    """Return the rows of one day: a value an hour for each series.

    Until the end of the history, the values follow a wave of 24 hours. From then on they follow a wave of 8
    hours, so that a model that was trained on the history is out of date.
    """
    hour = 24 * day + np.arange(24)[:, None]
    period = 24 if day < HISTORY_DAYS else 8
    series = np.arange(SERIES)
    noise = np.random.default_rng(day).normal(size=(24, SERIES))
    values = 20 + 5 * series + 3 * np.sin(2 * np.pi * (hour / period + series / SERIES)) + noise / 3
    return _frame(hour, values)


def noise_frame(days: int) -> pl.DataFrame:
    """Return rows with independent random values, at the times of the first ``days`` days of the history."""
    hour = np.arange(24 * days)[:, None]
    return _frame(hour, np.random.default_rng(0).normal(20, 3, (24 * days, SERIES)))


def _frame(hour: np.ndarray, values: np.ndarray) -> pl.DataFrame:
    at_us = round(_START.timestamp() * 1e6) + np.repeat(hour[:, 0], SERIES) * _HOUR_US
    ids = [f"sensor-{number:02}" for number in range(SERIES)] * len(hour)
    times = pl.Series(at_us).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"series_id": ids, "timestamp": times, "value": values.reshape(-1)})


def write_history(folder: Path) -> tuple[Path, Path]:
    """Write a file of history and a file of noise for the same series and times; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    history, noise = folder / "history.parquet", folder / "noise.parquet"
    pl.concat([day_frame(day) for day in range(HISTORY_DAYS)]).write_parquet(history)
    noise_frame(HISTORY_DAYS).write_parquet(noise)
    return history, noise


def put_day(folder: Path, day: int) -> Path:
    """Write the file of one day into a watched folder; the file is complete or absent at every moment."""
    path = folder / f"day-{day:04}.parquet"
    write_whole(path, day_frame(day).write_parquet)
    return path
