"""Wrap MLflow's scoring server: read requests in CSV as text, and refuse a bad request with one line.

MLflow's server reads CSV only for models whose columns have fixed types, and the cells of a history have none
(see `forecaster.registry.served_model`). It also answers a body that it cannot read with a stack trace, or
with the whole body. A model cannot change this in ``predict``, because the server calls it only after it has
read the body. So this module wraps the function of the server that answers a request.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from schemas.errors import DataError, one_line

_SERVER = "mlflow.pyfunc.scoring_server"
_CSV, _JSON = "text/csv", "application/json"

_log = logging.getLogger(__name__)


class RequestRefused(MlflowException):
    """The error for a request that cannot be answered; its message is one line with the reason."""

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(line, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The reason for the refusal, in one line."""
        return self._line

    @message.setter
    def message(self, value: str) -> None:
        """Ignore ``value``: MLflow's server assigns a longer message, which contains the request's data."""


def wrap_scoring_server() -> None:
    """Wrap the function ``invocations`` of MLflow's scoring server, if the server's module is imported."""
    server = sys.modules.get(_SERVER)
    if server is not None and not hasattr(server.invocations, "__wrapped__"):
        vars(server)["invocations"] = _with_one_line_errors(server.invocations)


def _with_one_line_errors(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``answer``, the function with which MLflow's server answers a request.

    The returned function reads every cell of a CSV table as text, and raises each error as
    `RequestRefused`.
    """

    @wraps(answer)
    def invocations(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if not content_type:
            raise RequestRefused(f"the request has no header Content-Type: send {_JSON} or {_CSV}")
        try:
            kind, separator, parameters = content_type.partition(";")
            if kind.strip().lower() == _CSV:
                data, content_type = _csv_as_json(data), _JSON + separator + parameters
            return answer(data, content_type, model, input_schema)
        except RequestRefused:
            raise
        except DataError as error:
            raise RequestRefused(str(error)) from error
        except MlflowException as error:
            # Keep only the reason: MLflow's message can also quote rows and the body of the request.
            reason = error.message.rpartition("\nError: ")[2].partition("\nInput:")[0]
            raise RequestRefused(one_line(reason)) from error
        except Exception as error:
            _log.exception("a request failed")
            raise RequestRefused(f"the request cannot be answered: {type(error).__name__}") from error

    return invocations


def _csv_as_json(data: bytes) -> bytes:
    """Convert a table in CSV to a request in JSON, with every cell as text.

    So no cell is changed: a parser that guesses types would read the series id ``007`` as the number 7.

    Raises:
        DataError: the data is not CSV in UTF-8, or a line has not as many cells as the header.
    """
    rows: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if cells and len(cells) != len(columns):
                raise DataError(
                    f"the history: line {reader.line_num} has {len(cells)} cells and the header has "
                    f"{len(columns)}: give every line as many cells as the header"
                )
            if cells:
                rows.append(cells)
    except UnicodeDecodeError as error:
        raise DataError(f"the history: byte {error.start + 1} is not UTF-8: send CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"the history: line {reader.line_num} is not CSV: {error}") from error
    return json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()
