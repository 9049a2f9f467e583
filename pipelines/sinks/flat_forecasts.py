"""Files of flat forecasts: one row for each series and target window (`forecaster.forecasts.flat`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from forecaster.durable import write_whole
from schemas.errors import OutputError

FORMATS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": lambda rows, path: with_text_times(rows).write_csv(path),
    ".parquet": lambda rows, path: rows.write_parquet(path),
    ".jsonl": lambda rows, path: with_text_times(rows).write_ndjson(path),
}
"""The function that writes a frame in each format, by the suffix of the file."""


def write_forecasts(forecasts: pl.DataFrame, path: Path) -> None:
    """Write flat forecasts into a file; the suffix of the file's name selects the format.

    Raises:
        OutputError: the file cannot be written; an existing file is unchanged.
    """
    try:
        write_whole(path, partial(FORMATS[path.suffix], forecasts))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def with_text_times(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return flat forecasts with their times as text, such as 2013-12-31T05:00:00Z."""
    return forecasts.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
