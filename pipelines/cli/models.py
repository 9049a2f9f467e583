"""The loading of a model for a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.cli.console import Out
from pipelines.cli.stores import store_line

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.settings.config import JobConfig


def load_model(name: str, job: JobConfig, out: Out) -> Forecaster:
    """Load the model that ``name`` refers to, from a folder or from the job's MLflow store.

    A registered model takes precedence over a folder of the same name.

    Raises:
        ModelError: no such model exists.
    """
    from forecaster.registry.store import Store
    from pipelines.cli.preflight import check_model

    reference = check_model(name, job.mlflow)
    folder = reference.folder
    with out.progress(f"loading {name}", "models"):
        if folder and (reference.is_folder or not Store.parse(job.mlflow.tracking_uri).exists()):
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        from pipelines.jobs.registry import open_registry

        registry = open_registry(job.mlflow)
        if folder and not registry.is_registered(reference):
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        forecaster = registry.load(name)
    also = f"; to load the folder of that name, give --model ./{name}" if folder else ""
    out.say(f"model {name} is {forecaster.version} of {store_line(job.mlflow)}{also}")
    return forecaster
