"""A run of a forecasting job, whatever engine it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.base import Source
from pipelines.worker import StepSettings

PROGRESS_S = 0.5


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes:
        source: where rows come from.
        offset: where in the source it begins.
        settings: what workers need.
        stop_file: its appearance ends the run cleanly.
        snapshot_every_s: seconds between two snapshots.
    """

    source: Source
    offset: int
    settings: StepSettings
    stop_file: Path
    snapshot_every_s: float
