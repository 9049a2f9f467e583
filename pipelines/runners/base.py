"""A run of a forecasting job, whatever engine it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.base import Log, Places
from pipelines.worker import StepSettings

PROGRESS_S = 0.5


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes:
        log: where rows come from.
        places: where in each of its partitions the run begins.
        settings: what workers need.
        stop_file: its appearance ends the run cleanly.
        snapshot_every_s: seconds between two snapshots.
    """

    log: Log
    places: Places
    settings: StepSettings
    stop_file: Path
    snapshot_every_s: float
