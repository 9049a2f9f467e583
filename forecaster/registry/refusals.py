"""What MLflow and its database refuse, as one line of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import ModelError

REFUSALS = (MlflowException, SQLAlchemyError)

for _name in ("mlflow", "alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@contextmanager
def speaking(tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow and its database refuse into one line, and hushes what they warn of.

    Their warnings are of how MLflow uses SQLAlchemy and pandas, which nobody here can mend.

    Raises:
        ModelError: the store at ``tracking_uri`` refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except REFUSALS as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise ModelError(f"the MLflow store {tracking_uri} refuses: {lines[0]}") from error
