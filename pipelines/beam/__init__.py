"""Provide Beam transforms for users' pipelines: read a log, validate rows, forecast, write forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_names

if TYPE_CHECKING:
    from pipelines.beam.forecast_fleet import ForecastFleet
    from pipelines.beam.read_log import ReadLog
    from pipelines.beam.validate import Validate
    from pipelines.beam.write import WriteForecasts, WriteQuarantine

_MODULE_OF = {
    "ForecastFleet": "forecast_fleet",
    "ReadLog": "read_log",
    "Validate": "validate",
    "WriteForecasts": "write",
    "WriteQuarantine": "write",
}

__all__ = ["ForecastFleet", "ReadLog", "Validate", "WriteForecasts", "WriteQuarantine"]

__getattr__ = lazy_names(__name__, _MODULE_OF)
