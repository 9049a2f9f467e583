"""An MLflow store of training runs and model versions: start runs, load models, promote versions.

MLflow takes about 5 s to import, so import this module late. It uses its own MLflow client and does not
change MLflow's process-wide settings, so several stores can be open at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
import polars as pl
from mlflow.entities import LifecycleStage, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import SecretStr

from forecaster.model import FILE_NAME, Forecaster
from forecaster.registry.new_store import make_store
from forecaster.registry.refusals import REFUSALS, ignore_existing, store_errors
from forecaster.registry.run import Run
from forecaster.registry.store import (
    DEFAULT_ALIAS,
    Reference,
    Store,
    check_alias,
    registry_of,
    ui_command,
    ui_environment,
)
from forecaster.registry.versions import (
    SCALE_FILE,
    VERSION_TAG,
    Promotion,
    Version,
    run_overview,
    runs_frame,
    version_of,
    versions_frame,
)
from schemas.errors import ModelError

if TYPE_CHECKING:
    from mlflow.entities import Run as RunEntity

__all__ = ["Promotion", "Registry", "Run", "Version", "ui_command", "ui_environment"]


class Registry:
    """A store of training runs and model versions.

    The first run that starts in a store creates it. Reading from a store that does not exist raises an error.

    Args:
        tracking_uri: ``sqlite:///FILE``, which has its artifacts in ``mlartifacts/`` beside the file, or the
            http address of a server.
        experiment: name of the experiment of new runs, which is created if it is missing.
        registry_uri: the store of registered models; empty for the store of runs.
        experiment_id: id of an existing experiment, which is used instead of ``experiment``; empty to use
            the name.
        run_id: an existing run that `start_run` continues, as ``mlflow run`` creates one; empty to start a
            new run each time.
        system_metrics: whether to log the use of processor, memory, disk and network during a run.

    Raises:
        ModelError: the store cannot be opened, written or reached.
    """

    def __init__(
        self,
        tracking_uri: str | SecretStr = "sqlite:///mlflow.db",
        experiment: str = "statecast",
        *,
        registry_uri: str | SecretStr = "",
        experiment_id: str = "",
        run_id: str = "",
        system_metrics: bool = False,
    ) -> None:
        self._store = Store.parse(tracking_uri)
        self._models = registry_of(self._store, registry_uri)
        for store in {self._store, self._models}:
            store.check()
        self.tracking_uri = self._store.uri
        self.experiment = experiment
        self._given_id, self._run_id, self._system_metrics = experiment_id, run_id, system_metrics
        self._client: mlflow.MlflowClient | None = None

    @contextmanager
    def start_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        parent: Run | None = None,
    ) -> Iterator[Run]:
        """Start an MLflow run to log to, and end it at the end of the ``with`` block.

        An error ends the MLflow run as FAILED, Ctrl-C as KILLED.

        Args:
            name: name of the MLflow run in overviews.
            params: settings, see `Run.log_params`.
            tags: tags in addition to MLflow's own tags of user, source file and git commit.
            parent: the MLflow run to which the new one belongs; MLflow shows the new one below it.

        Raises:
            ModelError: the store reports an error.
        """
        with self._store_errors():
            client = self._open()
            own = dict(tags or {}) | ({MLFLOW_PARENT_RUN_ID: parent.run_id} if parent else {})
            if self._run_id and parent is None:
                entity = self._reopened_run(client, name, resolve_tags(own))
            else:
                entity = client.create_run(self._experiment_id(client), tags=resolve_tags(own), run_name=name)
            run = Run(client, entity)
            run.log_params(params)
        try:
            with self._monitored(run):
                yield run
        except BaseException as error:
            status = RunStatus.FAILED if isinstance(error, Exception) else RunStatus.KILLED
            with suppress(*REFUSALS):  # the error of the `with` block must be raised, not the store's
                client.set_terminated(run.run_id, RunStatus.to_string(status))
            raise
        with self._store_errors():
            client.set_terminated(run.run_id)

    @contextmanager
    def _monitored(self, run: Run) -> Iterator[None]:
        """Log the machine's use to an MLflow run during the ``with`` block, if `system_metrics` is set."""
        if not self._system_metrics:
            yield
            return
        monitor = SystemMetricsMonitor(run.run_id, tracking_uri=self.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def _experiment_id(self, client: mlflow.MlflowClient) -> str:
        """Return the id of the experiment of new runs; an experiment given by name is created if missing.

        Raises:
            ModelError: no experiment has the given id, or it was deleted.
        """
        if self._given_id:
            return self._existing_experiment(client, self._given_id)
        known = client.get_experiment_by_name(self.experiment)
        if known is None:
            place = self._store.artifacts
            # With this tag, MLflow's pages open in the training view, not in the view for language models.
            with ignore_existing():  # another process can create the experiment at the same time
                client.create_experiment(
                    self.experiment,
                    None if place is None else place.as_uri(),
                    {"mlflow.experimentKind": "custom_model_development"},
                )
            known = client.get_experiment_by_name(self.experiment)
            assert known is not None
        found: str = known.experiment_id
        return found

    def _existing_experiment(self, client: mlflow.MlflowClient, experiment_id: str) -> str:
        """Return ``experiment_id``, after checking that the experiment exists.

        Raises:
            ModelError: no experiment has the id, or it was deleted.
        """
        try:
            known = client.get_experiment(experiment_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            known = None
        if known is None or known.lifecycle_stage != LifecycleStage.ACTIVE:
            what = (
                f"no experiment has the id {experiment_id}" if known is None else f"{known.name} was deleted"
            )
            raise ModelError(
                f"{what} in {self._store}: set MLFLOW_EXPERIMENT_ID or mlflow.experiment_id to the id of an "
                "experiment that statecast ui shows, or to nothing"
            )
        return experiment_id

    def _reopened_run(self, client: mlflow.MlflowClient, name: str, tags: Mapping[str, str]) -> RunEntity:
        """Set the run that `mlflow run` created to running, name it, add missing tags, and return it."""
        entity = self._entity(self._run_id)
        client.update_run(self._run_id, RunStatus.to_string(RunStatus.RUNNING), name)
        for key, value in tags.items():
            if key not in entity.data.tags:
                client.set_tag(self._run_id, key, value)
        return entity

    def load(self, ref: str) -> Forecaster:
        """Load the forecaster that ``ref`` names.

        Args:
            ref: ``NAME`` (its champion), ``NAME@ALIAS`` or ``NAME/3``, each also with the prefix
                ``models:/``; ``runs:/RUN_ID/model`` or only the run id; or a folder that `Forecaster.save`
                wrote, as ``./FOLDER``, or as ``FOLDER`` if no registered model has that name.

        Raises:
            ModelError: the model, version, alias or run does not exist, or its weights have changed.
        """
        reference = Reference.parse(ref)
        if reference.folder is not None and not self.is_registered(reference):
            return Forecaster.load(reference.folder)
        expected = None
        with self._store_errors():
            client = self._existing()
            if reference.run_id is not None:
                uri = self._model_of_run(reference.run_id)
            else:
                version = self._find(reference)
                expected = version.model_version
                uri = client.get_model_version_download_uri(version.name, str(version.number))
            if uri.startswith("models:/m-"):
                # Resolve a models:/ address with this client: MLflow would look it up in its global store.
                uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
            with tempfile.TemporaryDirectory() as folder:
                mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=self.tracking_uri)
                saved = next(Path(folder).rglob(FILE_NAME), None)
                if saved is None:
                    raise ModelError(f"{ref} is not a Statecast model: train one with statecast train")
                forecaster = Forecaster.load(saved.parent)
        if expected not in (None, forecaster.version):
            raise ModelError(
                f"{ref} was registered as {expected}, but its weights are those of {forecaster.version}: "
                "its files were changed; train and register it again"
            )
        return forecaster

    def run(self, run_id: str) -> Run:
        """Return a run that has ended, so that later results about its model can be logged to the run.

        Raises:
            ModelError: the run does not exist.
        """
        with self._store_errors():
            return Run(self._existing(), self._entity(run_id))

    def promote(self, ref: str, alias: str = DEFAULT_ALIAS) -> Promotion:
        """Set ``alias`` to the version that ``ref`` names (``NAME/3`` or ``NAME@ALIAS``).

        Raises:
            ModelError: the version does not exist, or ``ref`` does not name a registered model.
        """
        check_alias(alias)
        reference = Reference.parse(ref)
        if reference.name is None:
            raise ModelError(f"{ref} is not a registered version: name it as NAME/3 or NAME@ALIAS")
        with self._store_errors():
            version = self._find(reference)
            before = self._registered(version.name)
            self._open().set_registered_model_alias(version.name, alias, str(version.number))
            return Promotion(
                alias,
                next((v for v in before if alias in v.aliases), None),
                next(v for v in self._registered(version.name) if v.number == version.number),
            )

    def tag_version(self, ref: str, key: str, value: str) -> None:
        """Set a tag of the registered version that ``ref`` names (``NAME/3`` or ``NAME@ALIAS``).

        Raises:
            ModelError: the version does not exist, or the store reports an error.
        """
        with self._store_errors():
            version = self._find(Reference.parse(ref))
            self._open().set_model_version_tag(version.name, str(version.number), key, value)

    def versions(self, name: str) -> pl.DataFrame:
        """Return the versions of a model, newest first.

        Returns:
            One row for each version, with the columns ``name`` (String), ``version`` (Int64), ``aliases``
            (List of String), ``model_version`` (String), ``run_id`` (String) and ``created`` (Datetime in
            microseconds, UTC).

        Raises:
            ModelError: no model has that name.
        """
        with self._store_errors():
            return versions_frame(self._registered(name))

    def training_scale(self, model_version: str) -> dict[str, float] | None:
        """Return the scale of each series on the training rows of a version; None if it is not stored.

        Args:
            model_version: `Forecaster.version`, which is also a column of forecasts.
        """
        try:
            with self._store_errors(), tempfile.TemporaryDirectory() as folder:
                client = self._existing()
                tag = f"tags.`{VERSION_TAG}` = '{model_version}'"
                found = client.search_model_versions(tag, max_results=1)
                if not found or not found[0].run_id:
                    return None
                file = client.download_artifacts(found[0].run_id, SCALE_FILE, folder)
                return dict(pl.read_parquet(file).select("series_id", "scale").rows())
        except (ModelError, MlflowException, OSError):
            return None

    def runs(self, limit: int = 100) -> pl.DataFrame:
        """Return the newest runs of the experiment, newest first.

        Returns:
            ``name, run_id, status, cell: String, started: Datetime("us", "UTC"), seconds: Float64`` (null
            while the run lasts) and a Float64 column with the last value of each validation metric of any
            run.
        """
        with self._store_errors():
            client = self._existing()
            if self._given_id:
                ids = [self._existing_experiment(client, self._given_id)]
            else:
                experiment = client.get_experiment_by_name(self.experiment)
                ids = [experiment.experiment_id] if experiment else []
            order = ["attributes.start_time DESC"]
            found = client.search_runs(ids, max_results=limit, order_by=order) if ids else []
        return runs_frame([run_overview(run) for run in found])

    def _open(self) -> mlflow.MlflowClient:
        """Return the client; the first call creates a missing SQLite store."""
        if self._client is None:
            make_store(self._store)
            if self._models != self._store:
                make_store(self._models)
            self._client = mlflow.MlflowClient(self.tracking_uri, self._models.uri)
        return self._client

    def _existing(self) -> mlflow.MlflowClient:
        """Return the client of the store; raise ModelError if the store does not exist."""
        self._store.check_exists()
        return self._open()

    def _store_errors(self) -> AbstractContextManager[None]:
        """Return a context that raises errors of the store as ModelError with one line."""
        return store_errors(self.tracking_uri)

    def is_registered(self, reference: Reference) -> bool:
        """Return True if the store has the model or run that the reference names.

        Return False if the reference can only mean a folder, or the store does not exist.
        """
        if reference.is_folder or not (self._store.exists() and self._models.exists()):
            return False
        with self._store_errors():
            client = self._open()
            if reference.run_id is not None:
                with suppress(MlflowException):
                    return bool(client.get_run(reference.run_id))
                return False
            return bool(client.search_model_versions(f"name = '{reference.name}'", 1))

    def _find(self, reference: Reference) -> Version:
        """Return the registered version that a reference with a model's name refers to."""
        assert reference.name is not None
        found = self._registered(reference.name)
        for version in found:
            if reference.version == version.number or reference.alias in version.aliases:
                return version
        numbers = ", ".join(str(version.number) for version in found[:10])
        aliases = ", ".join(sorted(alias for version in found for alias in version.aliases)) or "none"
        raise ModelError(
            f"{reference.text} names no version: {reference.name} has versions {numbers} and aliases "
            f"{aliases} (set one with statecast promote)"
        )

    def _registered(self, name: str) -> list[Version]:
        """Return the versions registered under ``name``, newest first.

        Raises:
            ModelError: no model has that name.
        """
        client = self._existing()
        found = client.search_model_versions(f"name = '{name}'", 1000, ["version_number DESC"])
        if not found:
            names = [model.name for model in client.search_registered_models(max_results=1000)]
            near = get_close_matches(name, names, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"it holds {', '.join(sorted(names)[:10]) or 'none yet'} (statecast train makes one)"
            )
            raise ModelError(f"no model {name!r} is registered in {self._models}: {hint}")
        # Read the aliases separately: in database stores, the results of a search have none.
        aliases = client.get_registered_model(name).aliases
        return [version_of(version, aliases) for version in found]

    def _entity(self, run_id: str) -> RunEntity:
        """Return MLflow's record of a run.

        Raises:
            ModelError: the run does not exist.
        """
        try:
            return self._existing().get_run(run_id)
        except MlflowException as error:
            raise ModelError(f"no run {run_id} is in {self._store}: statecast ui shows its runs") from error

    def _model_of_run(self, run_id: str) -> str:
        """Return the address of the last model that a run logged."""
        run = self._entity(run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        if not outputs:
            raise ModelError(
                f"run {run_id} ({run.info.run_name}, {run.info.status}) logged no model: choose another, or "
                "train again"
            )
        return f"models:/{outputs[-1].model_id}"
