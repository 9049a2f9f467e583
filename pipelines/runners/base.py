"""A run of a forecasting job, whatever engine it runs on."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.sources.base import Log, Places
from pipelines.storage import Location
from pipelines.workers.step_settings import StepSettings

PROGRESS_S = 0.5
LOCAL = "[local]"
"""A Flink inside its job server."""


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes:
        log: where rows come from.
        places: where in each of its partitions the run begins.
        settings: what workers need.
        stop_file: its appearance ends the run cleanly.
        snapshot_every_s: seconds between two snapshots.
        logs: folder in which an engine leaves its log, for whoever looks when all is over.
        beam_options: more options for Beam's runner, where there is one.
        before: the run that the output belonged to before; where whoever started it was killed, a cluster
            may still have it.
    """

    log: Log
    places: Places
    settings: StepSettings
    stop_file: Location
    snapshot_every_s: float
    logs: Location
    beam_options: tuple[str, ...] = ()
    before: str | None = None


@dataclass(frozen=True)
class FlinkSettings:
    """Which Flink.

    Attributes:
        master: ``[local]``, or ``host:port`` of a session cluster's REST interface.
        workers: ``host:port`` of the pool of Python workers, as task managers reach it; None for workers in
            this process.
    """

    master: str = LOCAL
    workers: str | None = None
