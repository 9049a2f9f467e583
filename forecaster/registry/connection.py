"""The connection to the MLflow stores of runs and of registered models, and to the experiment of new runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from forecaster.registry.new_store import make_store
from forecaster.registry.refusals import ignore_existing, store_errors
from forecaster.registry.runs_view import store_view
from forecaster.registry.store import Store, registry_of
from schemas.errors import ModelError

NO_SUCH = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""The error codes of MLflow for an id of a run or an experiment that does not exist."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 30.0, 600.0


class Connection:
    """The stores of runs and of models, MLflow's client for both, and the experiment of new runs.

    Attributes:
        runs: the store of runs.
        models: the store of registered models, which can be the same.
        experiment: name of the experiment of new runs.

    Args:
        tracking_uri, registry_uri, experiment, experiment_id, artifacts: see
            `forecaster.registry.registry.Registry`.

    Raises:
        ModelError: a store cannot be opened, written or reached.
    """

    def __init__(
        self,
        tracking_uri: str | SecretStr,
        registry_uri: str | SecretStr,
        experiment: str,
        experiment_id: str,
        artifacts: str,
    ) -> None:
        self.runs = Store.parse(tracking_uri)
        self.models = registry_of(self.runs, registry_uri)
        for store in {self.runs, self.models}:
            store.check()
        self.experiment = experiment
        self._given_id, self._artifacts = experiment_id, artifacts
        self._retry_s, self._wait_s = 0.0, 0.0
        self._client: mlflow.MlflowClient | None = None

    @property
    def is_away(self) -> bool:
        """Whether the store counts as unreachable: after `mark_away`, until `mark_present` is called."""
        return self._wait_s > 0

    @property
    def may_retry(self) -> bool:
        """Whether a request may be sent: `is_away` is False, or the wait after the last failure is over."""
        return monotonic() >= self._retry_s

    def mark_away(self) -> None:
        """Put off the next request: by 30 s at first, twice as long after each further failure, up to 10 min.

        Without this, a store that accepts connections but does not answer would delay every entry by seconds.
        """
        self._wait_s = min(max(2 * self._wait_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
        self._retry_s = monotonic() + self._wait_s

    def mark_present(self) -> None:
        """Record that the store answers, so that the next request is sent to it without a wait."""
        self._retry_s, self._wait_s = 0.0, 0.0

    def client(self) -> mlflow.MlflowClient:
        """Return MLflow's client; the first call creates a missing SQLite store."""
        if self._client is None:
            make_store(self.runs)
            if self.models != self.runs:
                make_store(self.models)
            self._client = mlflow.MlflowClient(self.runs.uri, self.models.uri)
        return self._client

    def existing(self) -> mlflow.MlflowClient:
        """Return MLflow's client; raise ModelError if the store of runs does not exist."""
        self.runs.check_exists()
        return self.client()

    def errors(self) -> AbstractContextManager[None]:
        """Return a context manager that turns an error of the store into a ModelError of one line."""
        return store_errors(self.runs.uri)

    def experiment_id(self) -> str:
        """Return the id of the experiment of new runs; create the experiment if its name is new.

        Raises:
            ModelError: no experiment has the given id, or it was deleted.
        """
        if self._given_id:
            return self._existing_experiment(self._given_id)
        client = self.client()
        known = client.get_experiment_by_name(self.experiment)
        if known is None:
            place = self._artifact_place()
            # This tag makes MLflow open its page for training runs, not its page for language models.
            with ignore_existing():  # another process may have just created the experiment
                client.create_experiment(
                    self.experiment,
                    place,
                    {"mlflow.experimentKind": "custom_model_development"},
                )
            known = client.get_experiment_by_name(self.experiment)
            assert known is not None
            store_view(client, known.experiment_id)
        return self._active(known)

    def _active(self, experiment: Experiment) -> str:
        """Return the id of an experiment; raise ModelError if the experiment was deleted."""
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise ModelError(
                f"the experiment {experiment.name} in {self.runs} was deleted: restore it with mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}, or name another with "
                "mlflow.experiment"
            )
        return str(experiment.experiment_id)

    def _artifact_place(self) -> str | None:
        """Return the address for the files of a new experiment; None if the MLflow server chooses it.

        Raises:
            ModelError: the store is a database without a server, and no setting names a place.
        """
        if self._artifacts:
            is_address = "://" in self._artifacts
            return self._artifacts if is_address else Path(self._artifacts).expanduser().absolute().as_uri()
        if self.runs.artifacts is not None:
            return self.runs.artifacts.as_uri()
        if self.runs.uri.startswith("http"):
            return None
        raise ModelError(
            f"the database {self.runs} has no folder for the files of runs: set mlflow.artifacts to a "
            "folder that all users can read, or to s3://BUCKET/PREFIX"
        )

    def existing_experiment_id(self) -> str | None:
        """Return the id of the experiment of new runs; None if the experiment does not exist yet.

        Raises:
            ModelError: the store does not exist, no experiment has the given id, or the experiment was
                deleted.
        """
        client = self.existing()
        if self._given_id:
            return self._existing_experiment(self._given_id)
        found = client.get_experiment_by_name(self.experiment)
        return None if found is None else self._active(found)

    def _existing_experiment(self, experiment_id: str) -> str:
        """Return ``experiment_id``, after a check that this experiment exists and was not deleted.

        Raises:
            ModelError: no experiment has the id, or it was deleted.
        """
        try:
            known = self.client().get_experiment(experiment_id)
        except MlflowException as error:
            if error.error_code not in NO_SUCH:
                raise
            known = None
        if known is None or known.lifecycle_stage != LifecycleStage.ACTIVE:
            what = (
                f"no experiment has the id {experiment_id}" if known is None else f"{known.name} was deleted"
            )
            raise ModelError(
                f"{what} in {self.runs}: set MLFLOW_EXPERIMENT_ID or mlflow.experiment_id to the id of an "
                "experiment that statecast ui shows, or leave both empty"
            )
        return experiment_id
