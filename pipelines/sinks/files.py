"""Where forecasts, quarantined rows and the state table are written.

Files appear whole: each is written under a hidden name and renamed. A file of forecasts is named for its
shard and the windows it covers, so that a rerun that closes the same windows writes the same files again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import apache_beam as beam
import polars as pl

from pipelines import state_table
from pipelines.coders import Issued, ShardState, frame_bytes
from pipelines.sources import formats
from schemas.errors import DataError, OutputError

Format = Literal["parquet", "jsonl"]

CLOSINGS = "closings.jsonl"


@dataclass
class WriteForecasts(beam.PTransform[Any, Any]):
    """``PCollection[Issued]`` -> ``folder/forecasts/*.parquet|jsonl``, and a line a file in `CLOSINGS`.

    A line of `CLOSINGS` says what was written when: ``at_s, shard, first, last`` (issue times), ``steps`` and
    ``latency_ms``: for each closing of windows, from the moment it was possible to the file in place.
    """

    folder: Path
    format: Format

    def expand(self, issued: Any) -> Any:
        """One ParDo."""
        return issued | beam.ParDo(_WriteForecasts(self.folder, self.format)).with_output_types(str)


class _WriteForecasts(beam.DoFn):
    def __init__(self, folder: Path, format_: Format) -> None:
        self.folder = folder
        self.format = format_

    def process(self, issued: Issued) -> Iterator[str]:
        first, last = issued.forecasts["issued_at"].min(), issued.forecasts["issued_at"].max()
        name = f"{_compact(first)}-{_compact(last)}-shard-{issued.shard:04d}.{self.format}"
        path = self.folder / "forecasts" / name
        _write(path, lambda hidden: write_frame(issued.forecasts, hidden, self.format))
        now_s = time.time()
        line = {
            "at_s": round(now_s, 3),
            "shard": issued.shard,
            "first": str(first),
            "last": str(last),
            "steps": issued.steps,
            "latency_ms": [
                round((now_s - arrived_s) * 1000, 2) for arrived_s in issued.arrived_s if arrived_s
            ],
        }
        with (self.folder / CLOSINGS).open(
            "a"
        ) as log:  # one short write to a file opened to append is atomic
            log.write(json.dumps(line) + "\n")
        yield str(path)


@dataclass
class WriteQuarantine(beam.PTransform[Any, Any]):
    """Frames of quarantined rows -> ``folder/quarantine/*.parquet``."""

    folder: Path

    def expand(self, frames: Any) -> Any:
        """One ParDo."""
        return frames | beam.ParDo(_WriteQuarantine(self.folder)).with_output_types(str)


class _WriteQuarantine(beam.DoFn):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, frame: pl.DataFrame) -> Iterator[str]:
        digest = hashlib.blake2b(frame_bytes(frame), digest_size=16).hexdigest()
        path = self.folder / "quarantine" / f"{digest}.parquet"  # the same rows again: the same file
        _write(path, lambda hidden: write_frame(frame, hidden, "parquet"))
        yield str(path)


@dataclass
class WriteStateTable(beam.PTransform[Any, Any]):
    """``PCollection[ShardState]`` -> a state table beside ``folder``, put in place when the job is done."""

    folder: Path

    def expand(self, states: Any) -> Any:
        """One ParDo."""
        return states | beam.Map(self._write).with_output_types(int)

    def _write(self, part: ShardState) -> int:
        state_table.write_part(state_table.beside(self.folder), part)
        return part.shard


@dataclass
class WritePosition(beam.PTransform[Any, Any]):
    """``PCollection[str]`` -> the source's position in the state table."""

    folder: Path

    def expand(self, positions: Any) -> Any:
        """One ParDo."""
        return positions | beam.Map(self._write).with_output_types(str)

    def _write(self, position: str) -> str:
        state_table.write_position(state_table.beside(self.folder), position)
        return position


def write_frame(frame: pl.DataFrame, path: Path, format_: Format) -> None:
    """A frame as Parquet (LZ4) or JSON lines."""
    if format_ == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path, compression="lz4", statistics=False)


def prepare_folder(folder: Path) -> None:
    """Makes the output folder with what is written to as rows come in, and checks that it can be written.

    Raises:
        OutputError: it cannot.
    """
    check_folder(folder)
    for part in ("forecasts", "quarantine"):
        (folder / part).mkdir(exist_ok=True)


def check_folder(folder: Path) -> None:
    """Makes a folder and checks that it can be written to; asking alone is not knowing.

    Raises:
        OutputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot write here ({error.strerror}): name another folder with --output"
        ) from error


def read_forecasts(folder: Path) -> pl.DataFrame:
    """All forecasts under ``folder`` (an output folder), sorted by issue time and series.

    Where several files hold the same identity, the last written counts.

    Raises:
        DataError: there are none, or a file of them cannot be read.
    """
    files = sorted((folder / "forecasts").glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    lines = sorted((folder / "forecasts").glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    frames = []
    for file in (*files, *lines):
        with formats.told(file):
            frames.append(pl.read_parquet(file) if file.suffix == ".parquet" else _read_lines(file))
    if not frames:
        raise DataError(f"{folder}: no forecasts here: name the output folder of a backfill or a stream")
    return (
        pl.concat(frames)
        .unique(["series_id", "issued_at", "model_version", "revision"], keep="last", maintain_order=True)
        .sort("issued_at", "series_id")
    )


def _read_lines(file: Path) -> pl.DataFrame:
    frame = pl.read_ndjson(file)
    nested_fields = frame.select("forecast").explode("forecast").unnest("forecast").columns
    names = [name for name in nested_fields if name != "horizon"]
    nested = pl.List(pl.Struct({"horizon": pl.Int16, **dict.fromkeys(names, pl.Float64)}))
    return frame.with_columns(
        pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"),
        pl.col("revision").cast(pl.Int32),
        pl.col("forecast").cast(nested),
    )


def read_quarantine(folder: Path) -> pl.DataFrame:
    """All quarantined rows under ``folder``, by file and row."""
    frames = [pl.read_parquet(file) for file in (folder / "quarantine").glob("*.parquet")]
    return pl.concat(frames).sort("file", "row") if frames else pl.DataFrame()


def _compact(at: Any) -> str:
    return at.strftime("%Y%m%dT%H%M%SZ") if isinstance(at, datetime) else str(at)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    hidden = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        write(hidden)
        os.replace(hidden, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
