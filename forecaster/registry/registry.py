"""An MLflow store of training runs and model versions: start runs, load models, promote versions.

MLflow takes about 5 s to import, so import this module late. It uses its own MLflow client and does not
change MLflow's process-wide settings, so several stores can be open at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import mlflow.artifacts
import polars as pl
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from forecaster.model import FILE_NAME, Forecaster
from forecaster.registry import lookup, outbox
from forecaster.registry.aliases import Aliases
from forecaster.registry.begin_run import begin_run, monitored, reopen_run
from forecaster.registry.connection import Connection
from forecaster.registry.killed_runs import PROCESS_TAG, check_not_running, mark_killed_runs
from forecaster.registry.lookup import find_version, find_weights, model_of_run, versions_of
from forecaster.registry.outbox import Outbox
from forecaster.registry.overview import models_frame, models_of, runs_frame, runs_of
from forecaster.registry.references import DEFAULT_ALIAS, Reference, check_alias
from forecaster.registry.refusals import REFUSALS
from forecaster.registry.run import Run
from forecaster.registry.runs_view import runs_page, store_view
from forecaster.registry.served_model import example_rows
from forecaster.registry.ui import ui_command, ui_environment
from forecaster.registry.versions import (
    MODEL_TAG,
    SCALE_FILE,
    Promotion,
    Sent,
    Version,
    versions_frame,
)
from schemas.errors import ModelError

__all__ = ["Promotion", "Registry", "Run", "Version", "ui_command", "ui_environment"]


class Registry:
    """Reads and writes training runs and model versions in MLflow.

    The first run that starts in a store creates it. Reading from a store that does not exist raises an error.

    Args:
        tracking_uri: ``sqlite:///FILE``, which has its artifacts in ``mlartifacts/`` beside the file, or the
            http address of a server.
        experiment: name of the experiment of new runs, which is created if it is missing.
        registry_uri: the store of registered models; empty for the store of runs.
        experiment_id: id of an existing experiment, which is used instead of ``experiment``; empty to use
            the name.
        run_id: id of an existing run that `start_run` continues, such as that of ``mlflow run``; empty to
            start a new run each time.
        system_metrics: whether to log the use of processor, memory, disk and network during a run.
        unsent: folder for the entries that the store does not take while it cannot be reached.
        artifacts: folder, or address such as ``s3://BUCKET/PREFIX``, for the files of a new experiment; empty
            if the server decides, and for SQLite, which has them beside its file.

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
        unsent: str | Path = outbox.FOLDER,
        artifacts: str = "",
    ) -> None:
        self._connection = Connection(tracking_uri, registry_uri, experiment, experiment_id, artifacts)
        self.tracking_uri = self._connection.runs.uri
        self.aliases = Aliases(self._connection)
        self.experiment = experiment
        self._run_id, self._system_metrics = run_id, system_metrics
        self._unsent = Path(unsent)

    @property
    def exists(self) -> bool:
        """Whether the store of runs has been created; always True if it is not an SQLite file."""
        return self._connection.runs.exists()

    @contextmanager
    def start_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        parent: Run | None = None,
        model_version: str = "",
    ) -> Iterator[Run]:
        """Start an MLflow run to log to, and end it at the end of the ``with`` block.

        An error ends the MLflow run as FAILED, Ctrl-C as KILLED. If the store cannot be reached during the
        run, the entries that it does not take wait in the folder ``unsent``. First, earlier runs are marked
        as KILLED if their process ran on this host and has died.

        Args:
            name: name of the MLflow run in overviews.
            params: settings, see `Run.log_params`.
            tags: tags in addition to the tags about user, commit, versions and machine.
            parent: the MLflow run to which the new one belongs; MLflow shows the new one below it. Such a run
                can start while the store cannot be reached.
            model_version: `Forecaster.version` of a registered model that the run evaluates; metrics with
                ``of_model`` are linked to it.

        Raises:
            ModelError: the store reports an error.
        """
        run = begin_run(self._connection, self._unsent, name, tags or {}, self._run_id, parent)
        if model_version:
            found = find_weights(self._connection, model_version)
            if found is not None and MODEL_TAG in found.tags:
                run.link_model(found.tags[MODEL_TAG])
        run.log_params(params)
        try:
            with monitored(run, self.tracking_uri) if self._system_metrics else nullcontext():
                yield run
        except BaseException as error:
            # An error of the store must not replace the error of the `with` block.
            with suppress(Exception):
                run.end("FAILED" if isinstance(error, Exception) else "KILLED", error)
            raise
        run.end("FINISHED")

    @contextmanager
    def reopen(self, run_id: str) -> Iterator[Run]:
        """Open a run that has ended, to log later results in a ``with`` block; the run keeps its status.

        Raises:
            ModelError: the run does not exist, or the store cannot be reached.
        """
        run = reopen_run(self._connection, self._unsent, run_id)
        yield run
        run.send()

    def send(self, folder: Path, model_name: str) -> Sent:
        """Send the unsent run in ``folder`` to the store, or register the saved forecaster in ``folder``.

        Args:
            folder: a folder that `forecaster.registry.outbox.unsent` returned, or that
                `Forecaster.save` wrote.
            model_name: the registered model of a saved forecaster; an unsent run has its own.

        Raises:
            ModelError: the folder holds neither, another process still writes the run, or the store does not
                take everything.
        """
        if (folder / FILE_NAME).is_file():
            forecaster = Forecaster.load(folder)
            with self.start_run(folder.resolve().name, {}, {"statecast.job": "register"}) as run:
                run.log_model(forecaster, model_name, example_rows(forecaster))
                run.name_first_version(model_name, "challenger", "it was registered without a backtest")
            return Sent(run.run_id, run.version, ())
        box = Outbox.read(folder)
        check_not_running(box.run.get("tags", {}).get(PROCESS_TAG, ""), folder)
        run = Run(self._connection, box)
        run.send()
        return Sent(run.run_id, run.version, tuple(run.notices))

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
        with self._connection.errors():
            client = self._connection.existing()
            if reference.run_id is not None:
                uri = model_of_run(self._connection, reference.run_id)
            else:
                version = find_version(self._connection, reference)
                expected = version.model_version
                uri = client.get_model_version_download_uri(version.name, str(version.number))
            if uri.startswith("models:/m-"):
                # Look up models:/ID with this client: `download_artifacts` would look it up in the store
                # that is set for the process.
                uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
            with tempfile.TemporaryDirectory() as folder:
                mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=self.tracking_uri)
                saved = next(Path(folder).rglob(FILE_NAME), None)
                if saved is None:
                    raise ModelError(f"{ref} is not a Statecast model: train one with statecast train")
                forecaster = Forecaster.load(saved.parent)
        if expected not in (None, forecaster.version):
            raise ModelError(
                f"{ref} was registered as {expected}, but its weights are {forecaster.version}: "
                "its files were changed; train and register it again"
            )
        return forecaster

    def promote(self, ref: str, alias: str = DEFAULT_ALIAS, why: str = "") -> Promotion:
        """Point ``alias`` at the version that ``ref`` names, and record the move.

        Args:
            ref: the version, as ``NAME/3`` or ``NAME@ALIAS``.
            alias: the alias.
            why: reason, one line.

        Raises:
            ModelError: the version does not exist, or ``ref`` does not name a registered model.
        """
        check_alias(alias)
        return self.aliases.move(self.aliases.find(ref), alias, why)

    def versions(self, name: str) -> pl.DataFrame:
        """Return the versions of a model, newest first.

        Returns:
            One row for each version, with the columns ``name`` (String), ``version`` (Int64), ``aliases``
            (List of String), ``model_version`` (String), ``run_id`` (String) and ``created`` (Datetime in
            microseconds, UTC).

        Raises:
            ModelError: no model has that name.
        """
        with self._connection.errors():
            return versions_frame(versions_of(self._connection, name))

    def training_scale(self, model_version: str) -> dict[str, float] | None:
        """Return each series' scale, computed on the training rows of a version; None if it cannot be read.

        Args:
            model_version: `Forecaster.version`, which is also a column of forecasts.
        """
        try:
            with self._connection.errors(), tempfile.TemporaryDirectory() as folder:
                found = find_weights(self._connection, model_version)
                if found is None or not found.run_id:
                    return None
                client = self._connection.existing()
                file = client.download_artifacts(found.run_id, SCALE_FILE, folder)
                return dict(pl.read_parquet(file).select("series_id", "scale").rows())
        except (ModelError, MlflowException, OSError):
            return None

    def runs(self, limit: int = 100) -> pl.DataFrame:
        """Return the newest ``limit`` runs of the experiment, newest first.

        Returns:
            ``name, run_id, status, job, cell: String, started: Datetime("us", "UTC"), seconds: Float64``
            (null while the run lasts) and a Float64 column with the last value of each backtest, test or
            validation metric of any run.
        """
        with self._connection.errors():
            return runs_frame(runs_of(self._connection, limit))

    def models(self) -> pl.DataFrame:
        """Return registered versions with the metrics of their runs, sorted by name and then newest first.

        At most 1000 models are read, and at most 1000 versions of each model.

        Returns:
            The columns of `versions`, ``description: String``, and a Float64 column for each backtest,
            test or validation metric of any run.
        """
        with self._connection.errors():
            return models_frame(*models_of(self._connection))

    def prepare_page(self, address: str) -> str:
        """Set up MLflow's page of runs, set the status of killed runs to KILLED, and return the page's URL.

        If no run has created the experiment, the experiment that was changed last is shown.

        Args:
            address: the address of the server that shows the page.
        """
        with self._connection.errors():
            client = self._connection.client()
            experiment_id = self._connection.existing_experiment_id()
            if experiment_id is None:
                found = client.search_experiments(max_results=1, order_by=["last_update_time DESC"])
                experiment_id = found[0].experiment_id if found else self._connection.experiment_id()
            # Ignore refused writes: a user without write access can still open MLflow's page of runs.
            with suppress(*REFUSALS):
                store_view(client, experiment_id)
                mark_killed_runs(client, experiment_id)
        return runs_page(address, experiment_id)

    def is_registered(self, reference: Reference) -> bool:
        """Return whether the store has the run, or any version of the model, that a reference names."""
        return lookup.is_registered(self._connection, reference)
