"""Sources that watch a folder in which tests add, change and delete files, with a clock that tests set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import FolderSource
from tests.pipelines.sources.logs import NOW_S, Clock

INPUT = Input(Columns(), skip_bad_files=True, max_future_s=3600)
ONE_ROW = pl.DataFrame({"series_id": ["a"], "timestamp": ["2013-01-01T05:30:00Z"], "value": [7.0]})


def watch(inbox: Path, **changes: Any) -> FolderSource:
    """Return a source that watches ``inbox``, with its manifest in the folder ``out`` beside ``inbox``.

    ``changes`` are further fields of the source.
    """
    inbox.mkdir(exist_ok=True)
    fields: dict[str, Any] = {"input": INPUT, "clock": Clock()} | changes
    return FolderSource(inbox, manifest_folder=inbox.parent / "out", **fields)


def restarted(source: FolderSource) -> FolderSource:
    """Return a copy of the source with a new clock and an empty cache, as in a new process.

    The new clock shows the time of the old one.
    """
    return replace(source, clock=Clock(source.clock()))


def advance_clock(source: FolderSource, seconds: float) -> None:
    assert isinstance(source.clock, Clock)
    source.clock.now_s += seconds


def write_parquet_file(path: Path, frame: pl.DataFrame = ONE_ROW, age_s: float = 60) -> Path:
    frame.write_parquet(path)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path
