"""What a row, a forecast, a state row, a score, a late row and a quarantined row are.

>>> import polars as pl
>>> from schemas import validate
>>> rows = {"series_id": ["a", "a"], "timestamp": ["2013-01-01T00:00Z", "soon"], "value": ["1.5", "2"]}
>>> good, quarantined = validate(pl.DataFrame(rows))
>>> len(good), quarantined["column"].to_list()
(1, ['timestamp'])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.errors import (
        ConfigError,
        DataError,
        EngineError,
        ModelError,
        OutputError,
        StatecastError,
        VersionMismatch,
    )
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

_HOMES = {
    "Forecast": "forecasts",
    "LateRow": "late",
    "Observation": "observations",
    "QuarantinedRow": "quarantine",
    "Score": "scores",
    "validate": "observations",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for, so that importing an error does not import pandera."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
