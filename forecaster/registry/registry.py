"""A store of training runs and model versions: what is started, found again and promoted in it.

MLflow takes about 5 s to import, so import this late. It works through a client of its own and leaves
MLflow's process-wide settings alone, so that several stores can be open at once.
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
from forecaster.registry.refusals import REFUSALS, exists_already, speaking
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
    overview_of,
    runs_frame,
    version_of,
    versions_frame,
)
from schemas.errors import ModelError

if TYPE_CHECKING:
    from mlflow.entities import Run as RunEntity

__all__ = ["Promotion", "Registry", "Run", "Version", "ui_command", "ui_environment"]


class Registry:
    """A store of runs and model versions.

    The store is made by the first run that starts in it; looking into one that does not exist is an error.

    Args:
        tracking_uri: ``sqlite:///FILE``, whose artifacts lie in ``mlartifacts/`` beside it, or the http
            address of a server.
        experiment: name of the experiment of new runs, which is made if need be.
        registry_uri: the store of registered models; empty: the same.
        experiment_id: id of an experiment that exists, which goes before ``experiment``; empty: the name.
        run_id: the run that `start_run` takes up, as ``mlflow run`` makes one; empty: a new one each time.
        system_metrics: log the use of processor, memory, disk and network while a run is under way.

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
        self._chosen_id, self._run_id, self._system_metrics = experiment_id, run_id, system_metrics
        self._client: mlflow.MlflowClient | None = None

    @contextmanager
    def start_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        parent: Run | None = None,
    ) -> Iterator[Run]:
        """A run to log to; it is finished at the end of the block, FAILED on an error, KILLED on Ctrl-C.

        Args:
            name: what the run is called in overviews.
            params: settings, see `Run.log_params`.
            tags: further tags, beside MLflow's own of user, source file and git commit.
            parent: the run that this one is a part of, under which MLflow shows it.

        Raises:
            ModelError: the store refuses.
        """
        with self._speaking():
            client = self._open()
            own = dict(tags or {}) | ({MLFLOW_PARENT_RUN_ID: parent.run_id} if parent else {})
            if self._run_id and parent is None:
                entity = self._taken_up(client, name, resolve_tags(own))
            else:
                entity = client.create_run(self._experiment_id(client), tags=resolve_tags(own), run_name=name)
            run = Run(client, entity)
            run.log_params(params)
        try:
            with self._monitored(run):
                yield run
        except BaseException as error:
            status = RunStatus.FAILED if isinstance(error, Exception) else RunStatus.KILLED
            with suppress(*REFUSALS):  # the error under way matters more
                client.set_terminated(run.run_id, RunStatus.to_string(status))
            raise
        with self._speaking():
            client.set_terminated(run.run_id)

    @contextmanager
    def _monitored(self, run: Run) -> Iterator[None]:
        """Log the use of the machine to a run while the block runs, where that is asked for."""
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
        """Return the id of the experiment of new runs; one that is given by its name is made if need be.

        Raises:
            ModelError: no experiment has the id that was given, or it was deleted.
        """
        if self._chosen_id:
            return self._existing_experiment(client, self._chosen_id)
        known = client.get_experiment_by_name(self.experiment)
        if known is None:
            place = self._store.artifacts
            # The tag opens MLflow's pages on their training view, not on the one for language models.
            with exists_already():  # where another process makes it at this moment
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

    def _taken_up(self, client: mlflow.MlflowClient, name: str, tags: Mapping[str, str]) -> RunEntity:
        """The run that `mlflow run` made, under way again and with our name; its own tags stay."""
        entity = self._entity(self._run_id)
        client.update_run(self._run_id, RunStatus.to_string(RunStatus.RUNNING), name)
        for key, value in tags.items():
            if key not in entity.data.tags:
                client.set_tag(self._run_id, key, value)
        return entity

    def load(self, ref: str) -> Forecaster:
        """The forecaster that ``ref`` names.

        Args:
            ref: ``NAME`` (its champion), ``NAME@ALIAS`` or ``NAME/3``, each also behind ``models:/``;
                ``runs:/RUN_ID/model`` or the run id alone; or a folder that `Forecaster.save` wrote, as
                ``./FOLDER``, or as ``FOLDER`` where no registered model has that name.

        Raises:
            ModelError: there is no such model, version, alias or run, or its weights have changed.
        """
        reference = Reference.parse(ref)
        if reference.folder is not None and not self.is_registered(reference):
            return Forecaster.load(reference.folder)
        expected = None
        with self._speaking():
            client = self._existing()
            if reference.run_id is not None:
                uri = self._model_of_run(reference.run_id)
            else:
                version = self._find(reference)
                expected = version.model_version
                uri = client.get_model_version_download_uri(version.name, str(version.number))
            if uri.startswith("models:/m-"):
                # Left to itself MLflow would look it up in its global store, not in this one.
                uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
            with tempfile.TemporaryDirectory() as folder:
                mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=self.tracking_uri)
                saved = next(Path(folder).rglob(FILE_NAME), None)
                if saved is None:
                    raise ModelError(f"{ref} is no model of Statecast: train one with statecast train")
                forecaster = Forecaster.load(saved.parent)
        if expected not in (None, forecaster.version):
            raise ModelError(
                f"{ref} was registered as {expected}, but its weights are those of {forecaster.version}: "
                "its files were changed; train and register it again"
            )
        return forecaster

    def run(self, run_id: str) -> Run:
        """A run that has ended, to log to it what came out about its model later.

        Raises:
            ModelError: there is no such run.
        """
        with self._speaking():
            return Run(self._existing(), self._entity(run_id))

    def promote(self, ref: str, alias: str = DEFAULT_ALIAS) -> Promotion:
        """Points ``alias`` at the version that ``ref`` names (``NAME/3`` or ``NAME@ALIAS``).

        Raises:
            ModelError: there is no such version, or ``ref`` names no registered model.
        """
        check_alias(alias)
        reference = Reference.parse(ref)
        if reference.name is None:
            raise ModelError(f"{ref} is not a registered version: name it as NAME/3 or NAME@ALIAS")
        with self._speaking():
            version = self._find(reference)
            before = self._registered(version.name)
            self._open().set_registered_model_alias(version.name, alias, str(version.number))
            return Promotion(
                alias,
                next((v for v in before if alias in v.aliases), None),
                next(v for v in self._registered(version.name) if v.number == version.number),
            )

    def versions(self, name: str) -> pl.DataFrame:
        """Return the versions of a model, newest first.

        Returns:
            One row for each version, with the columns ``name`` (String), ``version`` (Int64), ``aliases``
            (List of String), ``model_version`` (String), ``run_id`` (String) and ``created`` (Datetime in
            microseconds, UTC).

        Raises:
            ModelError: no model has that name.
        """
        with self._speaking():
            return versions_frame(self._registered(name))

    def training_scale(self, model_version: str) -> dict[str, float] | None:
        """The unit of each series' errors on the rows that a version was trained on; None where none is kept.

        Args:
            model_version: `Forecaster.version`, which forecasts carry.
        """
        try:
            with self._speaking(), tempfile.TemporaryDirectory() as folder:
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
        """The newest runs of the experiment, newest first.

        Returns:
            ``name, run_id, status, cell: String, started: Datetime("us", "UTC"), seconds: Float64`` (null
            while it runs) and a Float64 column for each validation metric that any logged (its last value).
        """
        with self._speaking():
            client = self._existing()
            if self._chosen_id:
                ids = [self._existing_experiment(client, self._chosen_id)]
            else:
                experiment = client.get_experiment_by_name(self.experiment)
                ids = [experiment.experiment_id] if experiment else []
            order = ["attributes.start_time DESC"]
            found = client.search_runs(ids, max_results=limit, order_by=order) if ids else []
        return runs_frame([overview_of(run) for run in found])

    def _open(self) -> mlflow.MlflowClient:
        if self._client is None:
            make_store(self._store)
            if self._models != self._store:
                make_store(self._models)
            self._client = mlflow.MlflowClient(self.tracking_uri, self._models.uri)
        return self._client

    def _existing(self) -> mlflow.MlflowClient:
        self._store.check_exists()
        return self._open()

    def _speaking(self) -> AbstractContextManager[None]:
        return speaking(self.tracking_uri)

    def is_registered(self, reference: Reference) -> bool:
        """Whether the store knows the model or the run that a folder has the name of."""
        if reference.is_folder or not (self._store.exists() and self._models.exists()):
            return False
        with self._speaking():
            client = self._open()
            if reference.run_id is not None:
                with suppress(MlflowException):
                    return bool(client.get_run(reference.run_id))
                return False
            return bool(client.search_model_versions(f"name = '{reference.name}'", 1))

    def _find(self, reference: Reference) -> Version:
        """The registered version that a reference with a name means."""
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
        """The versions registered under ``name``, newest first; refuses a name that has none."""
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
        # What a search finds lacks its aliases in database stores.
        aliases = client.get_registered_model(name).aliases
        return [version_of(version, aliases) for version in found]

    def _entity(self, run_id: str) -> RunEntity:
        try:
            return self._existing().get_run(run_id)
        except MlflowException as error:
            raise ModelError(
                f"no run {run_id} is in {self._store}: statecast ui shows the runs there are"
            ) from error

    def _model_of_run(self, run_id: str) -> str:
        """The address of the last model that a run logged."""
        run = self._entity(run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        if not outputs:
            raise ModelError(
                f"run {run_id} ({run.info.run_name}, {run.info.status}) logged no model: choose another, or "
                "train again"
            )
        return f"models:/{outputs[-1].model_id}"
