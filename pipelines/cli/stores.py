"""Which MLflow store a command uses, as it says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from forecaster.registry.store import Store, registry_of
from pipelines.cli.settings import ENVIRONMENT

if TYPE_CHECKING:
    from pipelines.settings.mlflow_config import MlflowConfig


def store_line(mlflow: MlflowConfig) -> str:
    """Return a line that names the stores, and the variables of the environment that chose them."""
    store = Store.parse(mlflow.tracking_uri)
    models = registry_of(store, mlflow.registry_uri)
    line = f"MLflow store {store}{_chosen_by('mlflow.tracking_uri', mlflow.tracking_uri.get_secret_value())}"
    if models != store:
        chosen = _chosen_by("mlflow.registry_uri", mlflow.registry_uri.get_secret_value())
        line += f", registered models in {models}{chosen}"
    return line


def _chosen_by(key: str, value: str) -> str:
    name = ENVIRONMENT[key]
    return f" (from {name})" if os.environ.get(name, "").strip() == value else ""
