"""A watched folder in which files appear, change and vanish while the clock stands still."""

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

ALL = Input(Columns(), skip_bad_files=True, max_future_s=3600)
PARQUET = pl.DataFrame({"series_id": ["a"], "timestamp": ["2013-01-01T05:30:00Z"], "value": [7.0]})


def watch(inbox: Path, **changes: Any) -> FolderSource:
    inbox.mkdir(exist_ok=True)
    how: dict[str, Any] = {"input": ALL, "clock": Clock()} | changes
    return FolderSource(inbox, manifest_folder=inbox.parent / "out", **how)


def restarted(source: FolderSource) -> FolderSource:
    """The source in another process, at the same time."""
    return replace(source, clock=Clock(source.clock()))


def later(source: FolderSource, seconds: float) -> None:
    assert isinstance(source.clock, Clock)
    source.clock.now_s += seconds


def parquet(path: Path, frame: pl.DataFrame = PARQUET, age_s: float = 60) -> Path:
    frame.write_parquet(path)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path
