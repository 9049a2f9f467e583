"""Define what a runner needs to run a job: the description of the run, and the addresses of Flink."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.sources.base import Log, Positions
from pipelines.storage import Location
from pipelines.workers.step_settings import StepSettings

PROGRESS_S = 0.5
LOCAL = "[local]"
"""Flink master that runs Flink inside Beam's job server."""


@dataclass(frozen=True)
class Run:
    """The description of one run of a job: what a runner needs to execute the run.

    Attributes:
        log: the source of the rows, as partitions with offsets.
        places: the position in each partition at which the run begins.
        settings: settings of the workers.
        stop_file: the run ends cleanly when this file appears.
        snapshot_every_s: seconds between two snapshots.
        logs: folder in which an engine writes its log file.
        beam_options: additional options for Beam's runner; not used in process.
        before: id of the run that owned the output folder before this run; a cluster may still be running its
            job, if its process was killed.
    """

    log: Log
    places: Positions
    settings: StepSettings
    stop_file: Location
    snapshot_every_s: float
    logs: Location
    beam_options: tuple[str, ...] = ()
    before: str | None = None


@dataclass(frozen=True)
class FlinkSettings:
    """The addresses of Flink and of its Python workers.

    Attributes:
        master: ``[local]``, or ``host:port`` of a session cluster's REST interface.
        workers: ``host:port`` at which the task managers reach the pool of Python workers; None for workers
            in this process.
    """

    master: str = LOCAL
    workers: str | None = None
