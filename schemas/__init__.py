"""Schemas and validation of the project's tables.

The tables are observations, late rows, replaced rows, quarantined rows, labelled rows, forecasts and scores.

>>> import polars as pl
>>> from schemas import validate
>>> rows = {"series_id": ["a", "a"], "timestamp": ["2013-01-01T00:00Z", "soon"], "value": ["1.5", "2"]}
>>> good, quarantined = validate(pl.DataFrame(rows))
>>> len(good), quarantined["column"].to_list()
(1, ['timestamp'])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import (
    ConfigError,
    DataError,
    EngineError,
    ModelError,
    OutputError,
    StatecastError,
    VersionMismatch,
)
from schemas.lazy_imports import lazy_names

if TYPE_CHECKING:
    from schemas.forecasts import Forecast
    from schemas.late import LateRow
    from schemas.observations import Observation, validate
    from schemas.quarantine import QuarantinedRow
    from schemas.scores import Score

__all__ = [
    "ConfigError",
    "DataError",
    "EngineError",
    "Forecast",
    "LateRow",
    "ModelError",
    "Observation",
    "OutputError",
    "QuarantinedRow",
    "Score",
    "StatecastError",
    "VersionMismatch",
    "validate",
]

_MODULE_OF = {
    "Forecast": "forecasts",
    "LateRow": "late",
    "Observation": "observations",
    "QuarantinedRow": "quarantine",
    "Score": "scores",
    "validate": "observations",
}

__getattr__ = lazy_names(__name__, _MODULE_OF)
