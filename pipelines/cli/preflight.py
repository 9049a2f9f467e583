"""Check the model reference and the MLflow store of a command before torch and MLflow are loaded.

The module itself imports neither torch nor MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster.registry.references import Reference
from forecaster.registry.store import Store, registry_of

if TYPE_CHECKING:
    from pipelines.settings.mlflow_config import MlflowConfig


def check_model(ref: str, mlflow: MlflowConfig) -> Reference:
    """Parse a model reference; unless it names a folder, check that the MLflow stores exist.

    Raises:
        ModelError: ``ref`` is not a valid reference, or the store does not exist.
    """
    reference = Reference.parse(ref)
    if reference.folder is None:
        check_store(mlflow)
        store = Store.parse(mlflow.tracking_uri)
        store.check_exists()
        registry_of(store, mlflow.registry_uri).check_exists()
    return reference


def check_store(mlflow: MlflowConfig) -> None:
    """Check the MLflow stores of runs and of registered models that are SQLite files or HTTP servers.

    Raises:
        ModelError: a file can neither be used nor created, or a server does not answer.
    """
    store = Store.parse(mlflow.tracking_uri)
    for one in {store, registry_of(store, mlflow.registry_uri)}:
        one.check()
