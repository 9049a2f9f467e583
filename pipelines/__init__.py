"""The pipelines: files and feeds in, validated and windowed; forecasts, states and quarantined rows out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import Columns, JobConfig, load_config
    from pipelines.fleet import ForecastFleet
    from pipelines.jobs.backfill import BackfillJob, run_backfill
    from pipelines.jobs.outcome import Counts, Outcome
    from pipelines.jobs.stream import StreamJob, run_stream
    from pipelines.runners.prism import PrismServer, prism_options
    from pipelines.sinks.files import read_forecasts, read_quarantine
    from pipelines.sources.feeds import Input, ReplayFeed, WatchFeed
    from pipelines.sources.tables import read_batches

_HOMES = {
    "BackfillJob": "jobs.backfill",
    "Columns": "config",
    "Counts": "jobs.outcome",
    "ForecastFleet": "fleet",
    "Input": "sources.feeds",
    "JobConfig": "config",
    "Outcome": "jobs.outcome",
    "PrismServer": "runners.prism",
    "ReplayFeed": "sources.feeds",
    "StreamJob": "jobs.stream",
    "WatchFeed": "sources.feeds",
    "load_config": "config",
    "prism_options": "runners.prism",
    "read_batches": "sources.tables",
    "read_forecasts": "sinks.files",
    "read_quarantine": "sinks.files",
    "run_backfill": "jobs.backfill",
    "run_stream": "jobs.stream",
}

__all__ = [
    "BackfillJob",
    "Columns",
    "Counts",
    "ForecastFleet",
    "Input",
    "JobConfig",
    "Outcome",
    "PrismServer",
    "ReplayFeed",
    "StreamJob",
    "WatchFeed",
    "load_config",
    "prism_options",
    "read_batches",
    "read_forecasts",
    "read_quarantine",
    "run_backfill",
    "run_stream",
]


def __getattr__(name: str) -> Any:
    """Loads what is asked for: Beam takes seconds, and ``statecast --help`` does not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
