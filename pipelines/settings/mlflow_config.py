"""Settings of the MLflow stores that runs and models are kept in."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from forecaster.setting_types import Settings
from schemas.secrets import SecretUrl

Name = Annotated[str, Field(min_length=1)]


def _not_empty(url: SecretUrl) -> SecretUrl:
    if not url.get_secret_value().strip():
        raise ValueError("must not be empty")
    return url


class MlflowConfig(Settings):
    """Where runs and model versions are kept."""

    tracking_uri: Annotated[SecretUrl, AfterValidator(_not_empty)] = Field(
        default=SecretUrl("sqlite:///mlflow.db"),
        description="MLflow store: sqlite:///FILE, the URL of a server, or another database; a password in "
        "it is never shown",
    )
    registry_uri: SecretUrl = Field(
        default=SecretUrl(""), description='store of registered models; "": that of the runs'
    )
    experiment: Name = Field(default="statecast", description="experiment that runs are logged to")
    experiment_id: str = Field(
        default="",
        description='id of an experiment that exists, in place of its name; "": the one called experiment',
    )
    model: Name = Field(default="statecast", description="registered model that versions are added to")
    run_id: str = Field(
        default="", description='run to log to, as mlflow run makes one; "": a new run each time'
    )
    system_metrics: bool = Field(
        default=False, description="log the use of processor, memory, disk and network while a run lasts"
    )
