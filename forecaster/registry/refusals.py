"""Convert errors of MLflow and its database to ModelError, with a message of one line."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from sqlalchemy.exc import SQLAlchemyError

from forecaster import warning_filters
from schemas.errors import ModelError, one_line
from schemas.masking import masked

_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Python module of a database's driver -> the package that has it."""
REFUSALS = (MlflowException, SQLAlchemyError)

for _name in ("mlflow", "alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@contextmanager
def store_errors(tracking_uri: str) -> Iterator[None]:
    """Convert errors of MLflow and its database in the ``with`` block to ModelError.

    Also hide the warnings of MLflow and SQLAlchemy for the rest of the process. They are about MLflow's own
    use of SQLAlchemy and pandas, which cannot be changed here.

    Raises:
        ModelError: the store at ``tracking_uri`` reports an error.
    """
    warning_filters.ignore(module=r"(mlflow|alembic|sqlalchemy)\b")
    try:
        yield
    except ImportError as error:
        package = _DRIVERS.get(str(error.name), error.name or str(error))
        raise ModelError(
            f"the MLflow store {tracking_uri} needs one more package: install it with pip install {package}"
        ) from error
    except REFUSALS as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ModelError(_explained(tracking_uri, reason)) from error


def _explained(tracking_uri: str, reason: str) -> str:
    """Return the message for an error of the store; if login or permission failed, it names a remedy."""
    status = re.search(r"error code (401|403)\b|\b(UNAUTHENTICATED|PERMISSION_DENIED)\b", reason)
    if status is None:
        return f"the MLflow store {tracking_uri} reports an error: {reason}"
    if status[1] == "403" or status[2] == "PERMISSION_DENIED":
        return (
            f"the MLflow server {tracking_uri} does not permit this (403): ask its owner for the permission, "
            "or log in as another user with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return (
        f"the MLflow server {tracking_uri} does not accept the login (401): set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )


@contextmanager
def ignore_existing() -> Iterator[None]:
    """Ignore MLflow's error that the object which the ``with`` block creates already exists.

    A check before the call would not help: another process could create the object between check and call.
    """
    try:
        yield
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def reason_of(error: BaseException) -> str:
    """Return an error's message as one line, with logins masked; ``interrupted`` for a `KeyboardInterrupt`.

    The line begins with the name of the error's class, unless the package `schemas` defines the class.
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if type(error).__module__.startswith("schemas."):
        return masked(one_line(error))
    return masked(one_line(traceback.format_exception_only(error)[-1]))
