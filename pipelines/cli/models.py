"""Load the model of a job from a folder or from the MLflow store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.cli.console import Out
from pipelines.cli.stores import store_line

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.settings.config import JobConfig


def is_registered_model(name: str, job: JobConfig) -> bool:
    """Return whether ``name`` refers to a model in the job's MLflow store, rather than to a folder.

    The store is read only if a folder with this name exists.

    Raises:
        ModelError: ``name`` is not a valid reference, or the store cannot be read.
    """
    from forecaster.registry.references import Reference
    from forecaster.registry.store import Store

    reference = Reference.parse(name)
    if reference.folder is None:
        return True
    if reference.is_folder or not Store.parse(job.mlflow.tracking_uri).exists():
        return False
    from pipelines.jobs.registry import open_registry

    return open_registry(job.mlflow).is_registered(reference)


def load_model(name: str, job: JobConfig, out: Out) -> Forecaster:
    """Load the model that ``name`` refers to, from a folder or from the job's MLflow store.

    A registered model takes precedence over a folder of the same name.

    Raises:
        ModelError: no such model exists.
    """
    from pipelines.cli.preflight import check_model

    folder = check_model(name, job.mlflow).folder
    with out.loading(name):
        if folder and not is_registered_model(name, job):
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        from pipelines.jobs.registry import open_registry

        forecaster = open_registry(job.mlflow).load(name)
    also = f"; to load the folder of that name, give --model ./{name}" if folder else ""
    out.say(f"model {name} is {forecaster.version} of {store_line(job.mlflow)}{also}")
    return forecaster
