"""Beam transforms that compose: read a log, validate rows, forecast a fleet, write the results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used, because Beam takes seconds to import."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
