"""Write files of flat forecasts, with one row for each series, target window and horizon."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, Literal, cast, get_args

import polars as pl

from forecaster.durable import write_whole
from pipelines.storage import Target, output_errors

FlatFormat = Literal["csv", "parquet", "jsonl"]

SUFFIXES: Final = tuple(f".{name}" for name in get_args(FlatFormat))
"""Suffixes of the files; each names the format."""


def write_forecasts(forecasts: pl.DataFrame, path: Path) -> None:
    """Write flat forecasts in the format of the file's suffix, which is one of `SUFFIXES`.

    Raises:
        OutputError: the file cannot be written; an existing file is unchanged.
    """
    with output_errors(f"{path}: cannot be written"):
        write_whole(path, partial(write_flat, forecasts, format_=cast(FlatFormat, path.suffix[1:])))


def write_flat(forecasts: pl.DataFrame, path: Target, format_: FlatFormat) -> None:
    """Write flat forecasts into a file; CSV and JSON lines have times as text."""
    match format_:
        case "csv":
            with_text_times(forecasts).write_csv(path)
        case "jsonl":
            with_text_times(forecasts).write_ndjson(path)
        case "parquet":
            forecasts.write_parquet(path)


def with_text_times(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return flat forecasts with their times as text, such as 2013-12-31T05:00:00Z."""
    return forecasts.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
