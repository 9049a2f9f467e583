"""Replay sources over small files, with a clock that tests set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from tests.fleets import HOUR
from tests.pipelines.sources.logs import Clock

INPUT = Input(Columns(), max_future_s=3600)


def replay_of(*files: Path, **changes: Any) -> ReplaySource:
    fields: dict[str, Any] = {"input": INPUT, "freq": HOUR, "clock": Clock()} | changes
    return ReplaySource(tuple(map(str, files)), **fields)


def restarted(one: ReplaySource) -> ReplaySource:
    """Return a copy of the source with a new clock; the copy gets a new reader, as in a new process.

    The new clock makes the copy unequal to the source, and `opened` returns the same reader only for equal
    sources.
    """
    return replace(one, clock=Clock())
