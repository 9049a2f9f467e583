"""Replays of small files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from tests.fleets import HOUR
from tests.pipelines.sources.logs import Clock

ALL = Input(Columns(), max_future_s=3600)


def source(*files: Path, **changes: Any) -> ReplaySource:
    how: dict[str, Any] = {"input": ALL, "freq": HOUR, "clock": Clock()} | changes
    return ReplaySource(tuple(map(str, files)), **how)


def restarted(one: ReplaySource) -> ReplaySource:
    """The source in another process."""
    return replace(one, clock=Clock())
