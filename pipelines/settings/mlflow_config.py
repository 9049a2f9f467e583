"""Define the settings of the MLflow stores, and of the runs and models that jobs store there."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from forecaster.setting_types import LocalPath, Settings
from pipelines.settings.setting_types import Name
from schemas.secrets import SecretUrl


def _not_empty(url: SecretUrl) -> SecretUrl:
    if not url.get_secret_value().strip():
        raise ValueError("must not be empty")
    return url


class MlflowConfig(Settings):
    """The MLflow stores of runs and model versions, and the names used in them."""

    tracking_uri: Annotated[SecretUrl, AfterValidator(_not_empty)] = Field(
        default=SecretUrl("sqlite:///mlflow.db"),
        description="MLflow store of runs and models: sqlite:///FILE, http://HOST:PORT, or another "
        "database; a password in it is never printed",
    )
    registry_uri: SecretUrl = Field(
        default=SecretUrl(""), description='store of registered models; "": the same store as for runs'
    )
    experiment: Name = Field(default="statecast", description="experiment that runs are logged to")
    experiment_id: str = Field(
        default="",
        description='id of an existing experiment, instead of its name; "": use mlflow.experiment',
    )
    model: Name = Field(default="statecast", description="registered model that new versions are added to")
    run_id: str = Field(
        default="",
        description='existing run to log to, such as one of mlflow run; "": create a new run each time',
    )
    production_every_s: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds between two batches of a stream's scores and drift that are logged to its run "
        "named production; 0: none",
    )
    system_metrics: bool = Field(
        default=True, description="log the use of processor, memory, disk and network while a run lasts"
    )
    artifacts: str = Field(
        default="",
        description="folder, or s3://BUCKET/PREFIX, for the files of runs in a database that no server "
        'serves, such as PostgreSQL; "": the server decides, or beside the SQLite file',
    )
    unsent: LocalPath = Field(
        default="statecast-unsent",
        description="folder for models and metrics of runs whose MLflow store is away; statecast sync sends "
        "them",
    )
