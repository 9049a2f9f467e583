"""Training runs and model versions in MLflow: what is logged, registered, found again and promoted.

The only module that imports MLflow (about 5 s, so import it late). It works through a client of its own and
leaves MLflow's process-wide settings alone, so that several stores can be open at once. Weights travel as
safetensors behind the loader ``forecaster.serving``; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

import forecaster
import schemas
from forecaster.model import FILE_NAME, Forecaster
from forecaster.registry.store import (
    DEFAULT_ALIAS,
    Reference,
    Store,
    check_alias,
    check_model_name,
    ui_command,
    ui_environment,
)
from forecaster.registry.versions import Promotion, RunOverview, Version, runs_frame, versions_frame
from forecaster.serving import HISTORY, columns_of
from schemas.errors import ModelError
from schemas.forecasts import quantile_column
from schemas.observations import OBSERVED

# MLflow reads these while it is imported, hence before the import: no usage reports, no chatter.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow.pyfunc  # noqa: E402
from mlflow.data.dataset_source_registry import resolve_dataset_source  # noqa: E402
from mlflow.data.polars_dataset import from_polars  # noqa: E402
from mlflow.entities import (  # noqa: E402
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunStatus,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.tracking.context.registry import resolve_tags  # noqa: E402
from mlflow.types import ColSpec, DataType, Schema  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: E402
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run as RunEntity
    from mlflow.entities.model_registry import ModelVersion

for _name in ("mlflow", "alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.ERROR)

__all__ = ["Promotion", "Registry", "Run", "Version", "ui_command", "ui_environment"]

_ARTIFACT = "model"
_VERSION_TAG = "model_version"
_OURS = [Path(str(package.__file__)).parent for package in (forecaster, schemas)]
_REQUIREMENTS = ("numpy", "pandera[polars]", "polars", "pyarrow", "pydantic", "safetensors", "torch")


class Registry:
    """A store of runs and model versions.

    The store is made by the first run that starts in it; looking into one that does not exist is an error.

    Args:
        tracking_uri: ``sqlite:///FILE``, whose artifacts lie in ``mlartifacts/`` beside it, or the http
            address of a server.
        experiment: what runs are gathered under.

    Raises:
        ModelError: the store cannot be opened, written or reached.
    """

    def __init__(self, tracking_uri: str = "sqlite:///mlflow.db", experiment: str = "statecast") -> None:
        self._store = Store.parse(tracking_uri)
        self._store.check()
        self.tracking_uri = self._store.uri
        self.experiment = experiment
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
        with self.speaking():
            client = self._open()
            known = client.get_experiment_by_name(self.experiment)
            if known is not None:
                experiment_id = known.experiment_id
            else:
                place = self._store.artifacts
                # The tag opens MLflow's pages on their training view, not on the one for language models.
                experiment_id = client.create_experiment(
                    self.experiment,
                    None if place is None else place.as_uri(),
                    {"mlflow.experimentKind": "custom_model_development"},
                )
            own = dict(tags or {}) | ({MLFLOW_PARENT_RUN_ID: parent.run_id} if parent else {})
            entity = client.create_run(experiment_id, tags=resolve_tags(own), run_name=name)
            run = Run(self, client, entity)
            run.log_params(params)
        try:
            yield run
        except BaseException as error:
            status = RunStatus.FAILED if isinstance(error, Exception) else RunStatus.KILLED
            with suppress(MlflowException, SQLAlchemyError):  # the error under way matters more
                client.set_terminated(run.run_id, RunStatus.to_string(status))
            raise
        with self.speaking():
            client.set_terminated(run.run_id)

    def load(self, ref: str) -> Forecaster:
        """The forecaster that ``ref`` names.

        Args:
            ref: ``NAME`` (its champion), ``NAME@ALIAS`` or ``NAME/3``, each also behind ``models:/``;
                ``runs:/RUN_ID/model`` or the run id alone; or a folder that `Forecaster.save` wrote.

        Raises:
            ModelError: there is no such model, version, alias or run, or its weights have changed.
        """
        reference = Reference.parse(ref)
        if reference.folder is not None:
            return Forecaster.load(reference.folder)
        expected = None
        with self.speaking():
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
        with self.speaking():
            return Run(self, self._existing(), self._entity(run_id))

    def promote(self, ref: str, alias: str = DEFAULT_ALIAS) -> Promotion:
        """Points ``alias`` at the version that ``ref`` names (``NAME/3`` or ``NAME@ALIAS``).

        Raises:
            ModelError: there is no such version, or ``ref`` names no registered model.
        """
        check_alias(alias)
        reference = Reference.parse(ref)
        if reference.name is None:
            raise ModelError(f"{ref} is not a registered version: name it as NAME/3 or NAME@ALIAS")
        with self.speaking():
            version = self._find(reference)
            before = self._registered(version.name)
            self._open().set_registered_model_alias(version.name, alias, str(version.number))
            return Promotion(
                alias,
                next((v for v in before if alias in v.aliases), None),
                next(v for v in self._registered(version.name) if v.number == version.number),
            )

    def versions(self, name: str) -> pl.DataFrame:
        """The versions of a model, newest first.

        Returns:
            ``name: String, version: Int64, aliases: List(String), model_version: String, run_id: String,
            created: Datetime("us", "UTC")``.

        Raises:
            ModelError: no model has that name.
        """
        with self.speaking():
            return versions_frame(self._registered(name))

    def runs(self, limit: int = 100) -> pl.DataFrame:
        """The newest runs of the experiment, newest first.

        Returns:
            ``name, run_id, status, cell: String, started: Datetime("us", "UTC"), seconds: Float64`` (null
            while it runs) and a Float64 column for each validation metric that any logged (its last value).
        """
        with self.speaking():
            client = self._existing()
            experiment = client.get_experiment_by_name(self.experiment)
            found = (
                client.search_runs(
                    [experiment.experiment_id], max_results=limit, order_by=["attributes.start_time DESC"]
                )
                if experiment
                else []
            )
        return runs_frame([_overview(run) for run in found])

    def _open(self) -> mlflow.MlflowClient:
        if self._client is None:
            self._client = mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)
        return self._client

    def _existing(self) -> mlflow.MlflowClient:
        self._store.check_exists()
        return self._open()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turns what MLflow and its database refuse into one line of ours, and hushes what they warn of.

        Their warnings are of how MLflow uses SQLAlchemy and pandas, which nobody here can mend.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (MlflowException, SQLAlchemyError) as error:
            lines = str(getattr(error, "orig", None) or error).strip().splitlines()
            raise ModelError(f"the MLflow store {self.tracking_uri} refuses: {lines[0]}") from error

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
            raise ModelError(f"no model {name!r} is registered in {self.tracking_uri}: {hint}")
        # What a search finds lacks its aliases in database stores.
        aliases = client.get_registered_model(name).aliases
        return [_version(version, aliases) for version in found]

    def _entity(self, run_id: str) -> RunEntity:
        try:
            return self._existing().get_run(run_id)
        except MlflowException as error:
            raise ModelError(
                f"no run {run_id} is in {self.tracking_uri}: statecast ui shows the runs there are"
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


class Run:
    """A run to log to: one under way, of `Registry.start_run`, or one that has ended, of `Registry.run`."""

    def __init__(self, registry: Registry, client: mlflow.MlflowClient, entity: RunEntity) -> None:
        self.run_id: str = entity.info.run_id
        self._registry = registry
        self._client = client
        self._step = 0
        self._experiment_id: str = entity.info.experiment_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Adds settings, which never change once they are there; values too long for MLflow are cut."""
        values = [Param(key, str(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
        with self._registry.speaking():
            for first in range(0, len(values), 100):  # MLflow's limit of a batch
                self._client.log_batch(self.run_id, params=values[first : first + 100])

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve of each metric, at ``step`` (the epoch)."""
        self._step = max(self._step, step)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        points = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        with self._registry.speaking():
            self._client.log_batch(self.run_id, metrics=points)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Sets the final value of each metric: MLflow takes the one of the highest step for the last."""
        self.log_epoch(metrics, self._step)

    def log_figure(self, figure: Figure, path: str) -> None:
        """Keeps a Matplotlib figure among the run's files, as ``plots/loss.png`` or ``.svg``, say."""
        with self._registry.speaking():
            self._client.log_figure(self.run_id, figure, path)

    def log_file(self, file: Path, path: str = "") -> None:
        """Keeps a file among the run's files, in the folder ``path`` of these."""
        with self._registry.speaking():
            self._client.log_artifact(self.run_id, str(file), path or None)

    def log_frame(self, frame: pl.DataFrame, path: str) -> None:
        """Keeps a frame among the run's files, by its ending: .json (MLflow shows a table), .csv or .parquet.

        Raises:
            ValueError: ``path`` has another ending.
        """
        kind = Path(path).suffix
        if kind not in (".json", ".csv", ".parquet"):
            raise ValueError(f"{path} must end in .json, .csv or .parquet")
        with self._registry.speaking(), tempfile.TemporaryDirectory() as folder:
            if kind == ".json":
                self._client.log_table(self.run_id, frame.to_dict(as_series=False), path)
                return
            file = Path(folder) / Path(path).name
            if kind == ".csv":
                frame.write_csv(file)
            else:
                frame.write_parquet(file)
            parent = Path(path).parent.as_posix()
            self._client.log_artifact(self.run_id, str(file), None if parent == "." else parent)

    def log_dataset(self, frame: pl.DataFrame, name: str, source: str, context: str = "training") -> None:
        """Names a frame as an input of the run: its schema, number of rows and digest, not its rows.

        Args:
            frame: what was learned from; equal frames get equal digests.
            name: what it is called in overviews.
            source: file, folder or address that it came from.
            context: what it was for: ``training``, ``validation``.
        """
        buffer = io.BytesIO()
        frame.rechunk().write_ipc(buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
        with self._registry.speaking():
            origin = resolve_dataset_source(source)
            data = from_polars(frame, source=origin, name=name, digest=digest)
            tags = [InputTag("mlflow.data.context", context)]
            self._client.log_inputs(self.run_id, [DatasetInput(data._to_mlflow_entity(), tags)])

    def log_model(self, forecaster: Forecaster, model_name: str, example: pl.DataFrame) -> Version:
        """Keeps a forecaster with its signature, and registers it as the next version of ``model_name``.

        The first version of a name becomes its champion.

        Args:
            forecaster: what was trained.
            model_name: the registered model, made if need be.
            example: a few rows of ``series_id, timestamp, value`` and observed covariates, kept beside the
                model.

        Raises:
            ModelError: ``model_name`` cannot be a name, or the store refuses.
        """
        check_model_name(model_name)
        client, version = self._client, forecaster.version
        with self._registry.speaking(), tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            forecaster.save(folder / "forecaster")
            tags = {_VERSION_TAG: version}
            logged = client.create_logged_model(
                self._experiment_id, _ARTIFACT, self.run_id, tags, model_type=forecaster.network_config.cell
            )
            mlflow.pyfunc.save_model(
                folder / _ARTIFACT,
                loader_module="forecaster.serving",
                data_path=str(folder / "forecaster"),
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=self.run_id,
                    model_id=logged.model_id,
                ),
                signature=_signature(forecaster),
                input_example=_example(forecaster, example).to_pandas(),
                pip_requirements=_requirements(),
                # Statecast travels with the model (0.2 MB): no index need have it where it is served.
                code_paths=[str(package) for package in _OURS],
            )
            client.log_model_artifacts(logged.model_id, str(folder / _ARTIFACT))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, 0)])
            if not client.search_registered_models(f"name = '{model_name}'"):
                client.create_registered_model(model_name)
            # A database's registry would look models:/ID up in MLflow's global store; a server in its own.
            remote = client.tracking_uri.startswith("http")
            source = f"models:/{logged.model_id}" if remote else logged.artifact_location
            made = client.create_model_version(
                model_name, source, self.run_id, tags, model_id=logged.model_id
            )
            if int(made.version) == 1:
                client.set_registered_model_alias(model_name, DEFAULT_ALIAS, str(made.version))
            return _version(made, client.get_registered_model(model_name).aliases)


def _requirements() -> list[str]:
    """What serving imports, as installed; a build's own part of a version (``+cpu``) is in no index."""
    installed = {name: installed_version(name.partition("[")[0]) for name in _REQUIREMENTS}
    return [f"{name}=={version.partition('+')[0]}" for name, version in installed.items()]


def _signature(forecaster: Forecaster) -> ModelSignature:
    inputs = {"series_id": DataType.string, "timestamp": DataType.datetime, "value": DataType.double}
    for name, column in columns_of(forecaster.covariates.features).items():
        inputs[name] = DataType.string if column is not None and column.words else DataType.double
    outputs = {
        "series_id": DataType.string,
        "issued_at": DataType.datetime,
        "model_version": DataType.string,
        "horizon": DataType.integer,
        **{quantile_column(level): DataType.double for level in forecaster.network_config.quantiles},
    }
    return ModelSignature(_schema(inputs), _schema(outputs))


def _example(forecaster: Forecaster, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as the served model takes them; a covariate that they do not have is a usual one."""
    columns = []
    for name, column in columns_of(forecaster.covariates.features).items():
        if column is not None:
            columns.append(pl.lit(column.words[0] if column.words else column.mean).alias(name))
        else:
            there = OBSERVED + name in rows.columns
            columns.append((pl.col(OBSERVED + name) if there else pl.lit(None, pl.Float64)).alias(name))
    # MLflow's datetime has no zone; `forecaster.serving` reads it as UTC.
    return rows.select(*HISTORY, *columns).with_columns(pl.col("timestamp").dt.replace_time_zone(None))


def _schema(columns: Mapping[str, DataType]) -> Schema:
    return Schema([ColSpec(kind, name) for name, kind in columns.items()])


def _version(found: ModelVersion, aliases: Mapping[str, object]) -> Version:
    """A version as we say it; ``aliases`` are those of its model, with the number each points at."""
    return Version(
        name=found.name,
        number=int(found.version),
        run_id=found.run_id or "",
        model_version=found.tags.get(_VERSION_TAG, ""),
        aliases=tuple(
            sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
        ),
        created=_instant(found.creation_timestamp),
    )


def _overview(run: RunEntity) -> RunOverview:
    start, end = run.info.start_time, run.info.end_time
    cells = (value for key, value in run.data.params.items() if key.rpartition(".")[2] == "cell")
    return RunOverview(
        name=run.info.run_name,
        run_id=run.info.run_id,
        status=run.info.status,
        cell=next(cells, None),
        started=_instant(start),
        seconds=None if end is None else (end - start) / 1000,
        metrics=run.data.metrics,
    )


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
