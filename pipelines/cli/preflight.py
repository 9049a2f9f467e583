"""What can be refused at once, before torch and MLflow are loaded: model and store.

Imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster.registry.store import Reference, Store, registry_of

if TYPE_CHECKING:
    from pipelines.settings.mlflow_config import MlflowConfig


def check_model(ref: str, mlflow: MlflowConfig) -> Reference:
    """Return what ``ref`` names, after a check that there is a store to look for it.

    Raises:
        ModelError: it can name no model, or there is no store.
    """
    reference = Reference.parse(ref)
    if reference.folder is None:
        check_store(mlflow)
        store = Store.parse(mlflow.tracking_uri)
        store.check_exists()
        registry_of(store, mlflow.registry_uri).check_exists()
    return reference


def check_store(mlflow: MlflowConfig) -> None:
    """Check that the MLflow stores of runs and of registered models can be used, or made.

    Raises:
        ModelError: one cannot.
    """
    store = Store.parse(mlflow.tracking_uri)
    for one in {store, registry_of(store, mlflow.registry_uri)}:
        one.check()
