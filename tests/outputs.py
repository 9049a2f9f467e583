"""Functions that read the files of a job's output folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from forecaster.forecasts import flat
from forecaster.time.frequency import Frequency
from pipelines.sinks.files import FLAT, read_forecasts
from pipelines.storage import Location, store_of
from tests.stores import on_disk


def contents(place: Location) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path relative to the folder."""
    folder = on_disk(place)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Location) -> list[str]:
    """Return the names of hidden files that a job should have removed at its end.

    A job keeps its counts (``.numbers``), the name of its run, and the markers of ended shards.
    """
    kept = (".numbers", ".run", ".ended-")
    return [p.name for p in folder.glob(".*") if not p.name.startswith(kept)]


_READERS: dict[str, Callable[[Any], pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".jsonl": pl.read_ndjson,
    ".parquet": pl.read_parquet,
}
_KEY = ("series_id", "timestamp", "horizon")


def assert_flat_as_nested(output: Location, freq: Frequency) -> None:
    """Assert that the flat files of an output equal its forecasts, with one row for each horizon."""
    frames = []
    for path in (output / FLAT).glob("*"):
        frame = _READERS[path.suffix](store_of(path).source())
        if path.suffix != ".parquet":
            frame = frame.with_columns(pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC"))
        frames.append(frame.with_columns(pl.col("horizon").cast(pl.Int16)))
    expected = flat(read_forecasts(output), freq)
    assert frames, "there are no flat files"
    assert pl.concat(frames).sort(_KEY).equals(expected.sort(_KEY))
