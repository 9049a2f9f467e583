"""Open the model registry of a job, and describe the job in its MLflow run."""

from __future__ import annotations

from forecaster.registry.registry import Registry, Run
from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import commented_toml
from pipelines.settings.mlflow_config import MlflowConfig

_TRAINING = ("windows", "covariates", "network", "online", "training")
# settings in these sections that are not logged as parameters; the number of threads is logged as a tag
_NOT_PARAMS = ("training.threads",)


def open_registry(mlflow: MlflowConfig) -> Registry:
    """Open the MLflow stores that the settings name, and return the model registry.

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
        unsent=mlflow.unsent,
        artifacts=mlflow.artifacts,
    )


def training_params(config: JobConfig) -> dict[str, object]:
    """Return the non-empty settings of a training, by dotted name, as parameters of its MLflow run.

    The frequency is left out if the job does not give it, because it is found only when the rows are read.
    """
    values = config.flat()
    return {
        key: value
        for key, value in values.items()
        if (key.partition(".")[0] in _TRAINING or key in ("data.start", "data.end"))
        and key not in _NOT_PARAMS
        and value not in ("", ())
        and (key != "windows.freq" or "freq" in config.windows.model_fields_set)
    }


def run_tags(config: JobConfig, job: str) -> dict[str, str]:
    """Return the tags of a training's MLflow run: the cell, the kind of the job, the number of threads."""
    return {
        "statecast.cell": config.network.cell,
        "statecast.job": job,
        "statecast.threads": str(config.training.threads or "torch's own number"),
    }


def log_job_file(run: Run, config: JobConfig) -> None:
    """Store a job file with the settings of a job among the files of its MLflow run.

    The addresses of MLflow and of a schema registry, options of a broker, and alerts are left out, because
    they can hold passwords.
    """
    kafka = config.kafka.model_copy(update={"registry": type(config.kafka)().registry, "options": {}})
    public = config.model_copy(
        update={"mlflow": MlflowConfig(model=config.mlflow.model), "kafka": kafka, "alerts": ()}
    )
    run.log_text(commented_toml(public), "job.toml")
