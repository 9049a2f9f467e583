"""Jobs, sources, sinks and Beam transforms, which read rows and write forecasts, states and rejected rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_names

if TYPE_CHECKING:
    from pipelines.beam.forecast_fleet import ForecastFleet
    from pipelines.beam.read_log import ReadLog
    from pipelines.beam.validate import Validate
    from pipelines.beam.write import WriteForecasts, WriteQuarantine
    from pipelines.jobs.forecast import run_backfill, run_stream
    from pipelines.jobs.job import BackfillJob, Outcome, StreamJob
    from pipelines.runners.prism import PrismServer, prism_options
    from pipelines.settings.config import JobConfig
    from pipelines.settings.data_config import Columns
    from pipelines.settings.job_file import load_config
    from pipelines.sinks.files import read_forecasts, read_late, read_quarantine, read_replaced
    from pipelines.sinks.numbers import JobNumbers
    from pipelines.sources.files.tables import read_batches
    from pipelines.sources.files.validated_rows import Input
    from pipelines.sources.folder import FolderSource
    from pipelines.sources.replay import ReplaySource

_MODULE_OF = {
    "BackfillJob": "jobs.job",
    "Columns": "settings.data_config",
    "FolderSource": "sources.folder",
    "ForecastFleet": "beam.forecast_fleet",
    "Input": "sources.files.validated_rows",
    "JobConfig": "settings.config",
    "JobNumbers": "sinks.numbers",
    "Outcome": "jobs.job",
    "PrismServer": "runners.prism",
    "ReadLog": "beam.read_log",
    "ReplaySource": "sources.replay",
    "StreamJob": "jobs.job",
    "Validate": "beam.validate",
    "WriteForecasts": "beam.write",
    "WriteQuarantine": "beam.write",
    "load_config": "settings.job_file",
    "prism_options": "runners.prism",
    "read_batches": "sources.files.tables",
    "read_forecasts": "sinks.files",
    "read_late": "sinks.files",
    "read_quarantine": "sinks.files",
    "read_replaced": "sinks.files",
    "run_backfill": "jobs.forecast",
    "run_stream": "jobs.forecast",
}

__all__ = [
    "BackfillJob",
    "Columns",
    "FolderSource",
    "ForecastFleet",
    "Input",
    "JobConfig",
    "JobNumbers",
    "Outcome",
    "PrismServer",
    "ReadLog",
    "ReplaySource",
    "StreamJob",
    "Validate",
    "WriteForecasts",
    "WriteQuarantine",
    "load_config",
    "prism_options",
    "read_batches",
    "read_forecasts",
    "read_late",
    "read_quarantine",
    "read_replaced",
    "run_backfill",
    "run_stream",
]

__getattr__ = lazy_names(__name__, _MODULE_OF)
