"""The pipelines: files and feeds in, validated and windowed; forecasts, states and quarantined rows out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.backfill import BackfillJob, run_backfill
    from pipelines.config import Columns, JobConfig, load_config
    from pipelines.feeds import Input, ReplayFeed, WatchFeed
    from pipelines.fleet import ForecastFleet
    from pipelines.outcome import Counts, Outcome
    from pipelines.prism import PrismServer, prism_options
    from pipelines.readers import read_batches
    from pipelines.sinks import read_forecasts, read_quarantine
    from pipelines.stream import StreamJob, run_stream

_HOMES = {
    "BackfillJob": "backfill",
    "Columns": "config",
    "Counts": "outcome",
    "ForecastFleet": "fleet",
    "Input": "feeds",
    "JobConfig": "config",
    "Outcome": "outcome",
    "PrismServer": "prism",
    "ReplayFeed": "feeds",
    "StreamJob": "stream",
    "WatchFeed": "feeds",
    "load_config": "config",
    "prism_options": "prism",
    "read_batches": "readers",
    "read_forecasts": "sinks",
    "read_quarantine": "sinks",
    "run_backfill": "backfill",
    "run_stream": "stream",
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
