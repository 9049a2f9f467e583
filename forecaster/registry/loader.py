"""Load a registered version of a model for MLflow, which imports this module by its name.

If a model raises any exception other than MLflow's own, MLflow answers the request with a stack trace. So
this module converts errors of `ServedForecaster` to exceptions of MLflow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forecaster.model import Forecaster
from forecaster.registry.scoring_requests import RequestRefused, wrap_scoring_server
from forecaster.serving import ServedForecaster
from schemas.errors import StatecastError

_log = logging.getLogger(__name__)


class Served:
    """A `ServedForecaster` whose errors are converted to exceptions that MLflow can report."""

    def __init__(self, served: ServedForecaster) -> None:
        self.served = served

    def predict(self, frame: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of `ServedForecaster.predict`; convert each of its errors to RequestRefused.

        Raises:
            RequestRefused: the history cannot be used for a forecast.
        """
        try:
            return self.served.predict(frame, params)
        except StatecastError as error:
            raise RequestRefused(str(error)) from error
        except Exception as error:
            # MLflow would answer this error with a stack trace: raise an error that it answers with one line.
            _log.exception("a request failed")
            raise RequestRefused(f"the request cannot be answered: {type(error).__name__}") from error


def _load_pyfunc(path: str) -> Served:
    """Load a version from the folder ``path`` that `Forecaster.save` wrote; MLflow calls this function."""
    wrap_scoring_server()
    return Served(ServedForecaster(Forecaster.load(Path(path))))
