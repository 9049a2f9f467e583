"""Return the lines that a command prints about MLflow: the stores, and the command that shows the runs."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from forecaster.registry.store import Store, registry_of
from pipelines.cli.settings import ENVIRONMENT

if TYPE_CHECKING:
    from pipelines.settings.mlflow_config import MlflowConfig


def store_line(mlflow: MlflowConfig) -> str:
    """Return a line with the stores of runs and models, and any environment variables that set them."""
    store = Store.parse(mlflow.tracking_uri)
    models = registry_of(store, mlflow.registry_uri)
    line = f"MLflow store {store}{_origin('mlflow.tracking_uri', mlflow.tracking_uri.get_secret_value())}"
    if models != store:
        origin = _origin("mlflow.registry_uri", mlflow.registry_uri.get_secret_value())
        line += f", registered models in {models}{origin}"
    return line


def ui_line(mlflow: MlflowConfig) -> str:
    """Return the ``statecast ui`` command that shows the MLflow runs of the experiment."""
    experiment = mlflow.experiment
    is_default = experiment == type(mlflow)().experiment
    return f"statecast ui --tracking-uri {mlflow.tracking_uri}" + (
        "" if is_default else f" -s mlflow.experiment={shlex.quote(experiment)}"
    )


def _origin(key: str, value: str) -> str:
    """Return a note with the setting's environment variable if it holds ``value``; otherwise ""."""
    name = ENVIRONMENT[key]
    return f" (from {name})" if os.environ.get(name, "").strip() == value else ""
