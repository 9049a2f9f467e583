"""What MLflow and its database refuse, as one line of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from sqlalchemy.exc import SQLAlchemyError

from forecaster import warning_filters
from schemas.errors import ModelError

REFUSALS = (MlflowException, SQLAlchemyError)

for _name in ("mlflow", "alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@contextmanager
def speaking(tracking_uri: str) -> Iterator[None]:
    """Raise what MLflow and its database refuse as one line, and ignore what they warn of.

    Their warnings are of how MLflow uses SQLAlchemy and pandas, which nobody here can mend.

    Raises:
        ModelError: the store at ``tracking_uri`` refuses.
    """
    warning_filters.ignore(module=r"(mlflow|alembic|sqlalchemy)\b")
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"the MLflow store {tracking_uri} needs one more package: install {error.name or error}"
        ) from error
    except REFUSALS as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        said = lines[0] if lines else type(error).__name__
        raise ModelError(f"the MLflow store {tracking_uri} refuses: {said}") from error


@contextmanager
def exists_already() -> Iterator[None]:
    """Create something in a store, and go on where it exists: another process may create it at any moment.

    To ask first whether it exists would decide nothing.
    """
    try:
        yield
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
