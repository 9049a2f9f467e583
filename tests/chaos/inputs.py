"""The inputs of a chaos run: weather in one shuffled file, and flights in many files, some of them broken."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig
from pipelines.examples import weather as examples

LATENESS_H = 3


def write_weather(path: Path, rng: np.random.Generator, days: int) -> None:
    """Write weather rows in random order; some are missing, repeated or invalid, or have wrong times."""
    rows = _text(_days(examples.weather(), days))
    rows = rows.filter(pl.Series(rng.random(len(rows)) > 0.03))
    bad = rows.sample(40, seed=1).with_columns(value=pl.Series(["much", "NaN", "", "inf"] * 10))
    ahead = rows.sample(4, seed=2).with_columns(timestamp=pl.lit("2250-01-01T00:00:00Z"))
    sentinel = rows.sample(4, seed=3).with_columns(timestamp=pl.Series(["0001-01-01", "9999-12-31"] * 2))
    repeated = rows.sample(300, seed=4)
    pl.concat([rows, bad, ahead, sentinel, repeated]).sample(fraction=1.0, shuffle=True, seed=5).write_csv(
        path
    )


def write_flights(folder: Path, rng: np.random.Generator, days: int) -> list[Path]:
    """Write several files of flight departures for each day, and return their paths in the order of arrival.

    Arrival is the order in which a test puts the files into the watched folder.

    Rows are shuffled within the allowed lateness. Some files also have repeated rows, late rows, rows with
    wrong times or invalid rows, and some files are broken.
    """
    folder.mkdir(parents=True)
    rows = _days(examples.flights(), days)
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    lateness_us = LATENESS_H * 3_600_000_000
    order = np.argsort(event_us + rng.integers(0, lateness_us, len(rows)), kind="stable")
    rows = _text(rows[order])
    made = []
    for number, start in enumerate(range(0, len(rows), 300)):
        part = rows[start : start + 300]
        if number % 7 == 3:
            part = pl.concat([part, part.head(20)])
        if number % 11 == 5 and start:
            # These rows repeat earlier rows, whose windows may have closed.
            part = pl.concat([part, rows[start - 300 : start - 290]])
        if number % 13 == 6:
            part = pl.concat([part, part.head(3).with_columns(timestamp=pl.lit("2251-01-01T00:00:00Z"))])
        if number % 17 == 8:
            long_ago = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=number)
            late = part.head(5).with_columns(timestamp=pl.lit(f"{long_ago:%Y-%m-%dT%H:%M:%SZ}"))
            part = pl.concat([part, late])
        if number % 19 == 9:
            part = pl.concat([part, part.head(2).with_columns(series_id=pl.lit(""))])
        made.append(folder / f"{number:05}.{'csv' if number % 2 else 'jsonl'}")
        part.write_csv(made[-1]) if number % 2 else part.write_ndjson(made[-1])
        if number % 23 == 10:
            made.append(folder / f"{number:05}-broken.csv")
            made[-1].write_text("what,is,this\n1,2,3\n")
        if number % 29 == 12:
            made.append(folder / f"{number:05}-half.parquet")
            made[-1].write_bytes(b"PAR1 and no footer\n")
    return made


def _days(rows: pl.DataFrame, days: int) -> pl.DataFrame:
    return rows.filter(pl.col("timestamp") < datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=days))


def _text(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with times and values as text, so that invalid cells can be added."""
    return rows.with_columns(
        pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"), pl.col("value").cast(pl.String)
    )


def write_model(folder: Path, aggregate: str, empty: str) -> Path:
    """Save an untrained model in a folder and return the folder."""
    network = NetworkConfig(hidden=16, layers=1, horizon=6)
    windows = WindowConfig.model_validate(
        {"aggregate": aggregate, "empty": empty, "allowed_lateness": f"{LATENESS_H}h"}
    )
    Forecaster.untrained(network, windows).save(folder)
    return folder


def put(file: Path, folder: Path) -> None:
    """Copy a file into a folder under a hidden name, then rename it, so that it appears complete."""
    hidden = folder / f".{file.name}"
    shutil.copy(file, hidden)
    hidden.rename(folder / file.name)
