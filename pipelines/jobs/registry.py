"""Open the model registry of a job."""

from __future__ import annotations

from forecaster.registry.registry import Registry
from pipelines.settings.mlflow_config import MlflowConfig


def open_registry(mlflow: MlflowConfig) -> Registry:
    """Return the registry that the settings name.

    Raises:
        ModelError: a store cannot be opened, written or reached.
    """
    return Registry(
        mlflow.tracking_uri,
        mlflow.experiment,
        registry_uri=mlflow.registry_uri,
        experiment_id=mlflow.experiment_id,
        run_id=mlflow.run_id,
        system_metrics=mlflow.system_metrics,
    )
