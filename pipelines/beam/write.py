"""Write forecasts and rejected rows of a Beam pipeline into files; a repeated bundle replaces its files.

A file is complete or absent. Its name is computed from the identities of its rows, so a bundle that an engine
runs again replaces its files. `pipelines.read_forecasts` and `pipelines.read_quarantine` read the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import apache_beam as beam
import polars as pl

from pipelines.sinks.file_names import compact_time
from pipelines.sinks.files import FORECASTS, QUARANTINE, Format, write_frame
from pipelines.storage import Location, location, output_errors, store_of, write_whole
from schemas import quarantine
from schemas.forecasts import IDENTITY

_DIGITS = 20  # number of hex digits of the digest in a file's name: 80 bits, so equal names are very unlikely


@dataclass
class WriteForecasts(beam.PTransform[Any, Any]):
    """Write frames of forecasts as files under ``LOCATION/forecasts``, and emit the path of each file.

    A file name has the first and last issue time, the model version, the revision, and a digest of the
    identities of the forecasts: ``(series_id, issued_at, model_version, revision)``. A rerun that cuts the
    forecasts into other frames, as with another number of shards, writes other names beside the first ones;
    `pipelines.read_forecasts` then returns each forecast once.

    >>> from pathlib import Path
    >>> import apache_beam as beam
    >>> from forecaster import Forecaster, NetworkConfig, WindowConfig
    >>> from pipelines import ForecastFleet, WriteForecasts, read_forecasts
    >>> model = Forecaster.untrained(NetworkConfig(hidden=8, layers=1, horizon=3), WindowConfig())
    >>> times = [f"2013-01-01T0{hour}:00Z" for hour in range(4)]
    >>> rows = [{"series_id": "a", "timestamp": time, "value": 20.5} for time in times]
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     fleet = pipeline | beam.Create(rows) | ForecastFleet(model)
    ...     names = fleet["forecasts"] | WriteForecasts("out")
    >>> read_forecasts(Path("out"))["issued_at"].dt.hour().to_list()
    [1, 2, 3, 4]

    Attributes:
        location: the output folder, or a URL such as ``s3://bucket/prefix``.
        format: ``"parquet"`` or ``"jsonl"``.
    """

    location: Location | str
    format: Format = "parquet"

    def expand(self, frames: Any) -> Any:
        """Write frames as files, and return their paths: ``PCollection[DataFrame] -> PCollection[str]``."""
        write = _WriteForecasts(_folder(self.location, FORECASTS), self.format)
        return frames | beam.ParDo(write).with_output_types(str)


@dataclass
class WriteQuarantine(beam.PTransform[Any, Any]):
    """Write frames of rejected rows as files under ``LOCATION/quarantine``, and emit the path of each file.

    A file name is a digest of the rows, ``file`` and ``row`` included. Give rows these two columns, as
    `pipelines.ReadLog` does: without them, two frames of equal rejected rows have the same name, and one of
    the two is kept.

    >>> from pathlib import Path
    >>> import apache_beam as beam
    >>> from pipelines import Validate, WriteQuarantine, read_quarantine
    >>> import polars as pl
    >>> raw = pl.DataFrame({
    ...     "series_id": ["a"], "timestamp": ["never"], "value": [1.0], "file": ["x.csv"], "row": [7],
    ... })
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     rows = pipeline | beam.Create([raw]) | Validate()
    ...     names = rows["quarantined"] | WriteQuarantine("rejected")
    >>> read_quarantine(Path("rejected")).select("file", "row", "column").rows()
    [('x.csv', 7, 'timestamp')]

    Attributes:
        location: the output folder, or a URL such as ``s3://bucket/prefix``.
    """

    location: Location | str

    def expand(self, frames: Any) -> Any:
        """Write frames as files, and return their paths: ``PCollection[DataFrame] -> PCollection[str]``."""
        write = _WriteQuarantine(_folder(self.location, QUARANTINE))
        return frames | beam.ParDo(write).with_output_types(str)


def _folder(place: Location | str, part: str) -> Location:
    return (location(place) if isinstance(place, str) else place) / part


class _WriteForecasts(beam.DoFn):
    def __init__(self, folder: Location, format_: Format) -> None:
        self.folder, self.format = folder, format_

    def process(self, frame: pl.DataFrame) -> Iterator[str]:
        for (version, revision), rows in frame.partition_by(
            "model_version", "revision", as_dict=True
        ).items():
            rows = rows.sort("issued_at", "series_id")
            first, last = (int(rows["issued_at"].to_physical()[at]) for at in (0, -1))
            digest = _digest(rows.select(IDENTITY))
            times = f"{compact_time(first)}-{compact_time(last)}"
            yield _write(
                self.folder, f"{times}-{version}-r{revision}-{digest}.{self.format}", rows, self.format
            )


class _WriteQuarantine(beam.DoFn):
    def __init__(self, folder: Location) -> None:
        self.folder = folder

    def process(self, frame: pl.DataFrame) -> Iterator[str]:
        if len(frame):
            rows = frame.select(list(quarantine.SCHEMA)).sort(pl.all())
            yield _write(self.folder, f"{_digest(rows)}.parquet", rows, "parquet")


def _digest(rows: pl.DataFrame) -> str:
    """Return a digest of the cells of a frame; it is the same in every version of Polars."""
    return sha256(rows.write_ndjson().encode()).hexdigest()[:_DIGITS]


def _write(folder: Location, name: str, rows: pl.DataFrame, format_: Format) -> str:
    """Write a file that survives a loss of power, because the engine does not repeat a finished bundle."""
    path = folder / name
    with output_errors(f"{path}: cannot be written", pl.exceptions.PolarsError):
        store_of(folder).make_folder()
        write_whole(path, partial(_put, rows, format_), kept=True)
    return str(path)


def _put(rows: pl.DataFrame, format_: Format, target: Any) -> None:
    write_frame(rows, target, format_)
