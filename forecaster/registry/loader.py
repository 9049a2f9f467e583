"""MLflow's entry point to a registered version: it imports this module by name.

Where a model raises anything but MLflow's own exceptions, MLflow answers the request with a stack trace: what
`ServedForecaster` refuses becomes one of these exceptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from forecaster.model import Forecaster
from forecaster.serving import ServedForecaster
from schemas.errors import StatecastError


class RequestRefused(MlflowException):
    """A request that cannot be answered; one line says why."""

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(line, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The line. MLflow's scoring server puts the whole request before a message that it can set."""
        return self._line

    @message.setter
    def message(self, value: str) -> None:
        """Keep the line."""


class Served:
    """A `ServedForecaster` whose refusals MLflow can report."""

    def __init__(self, served: ServedForecaster) -> None:
        self.served = served

    def predict(self, frame: Any, params: object = None) -> Any:
        """See `ServedForecaster.predict`.

        Raises:
            RequestRefused: the history cannot be forecast from.
        """
        try:
            return self.served.predict(frame, params)
        except StatecastError as error:
            raise RequestRefused(str(error)) from error


def _load_pyfunc(path: str) -> Served:
    """Load a version; ``path`` is the folder that `Forecaster.save` wrote."""
    return Served(ServedForecaster(Forecaster.load(Path(path))))
