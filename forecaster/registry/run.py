"""A training run in MLflow: settings, metrics, files, data sets and models are logged to it."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.polars_dataset import from_polars
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from forecaster.model import Forecaster
from forecaster.registry.refusals import ignore_existing, store_errors
from forecaster.registry.served_model import ARTIFACT, save
from forecaster.registry.store import DEFAULT_ALIAS, check_model_name
from forecaster.registry.versions import SCALE_FILE, VERSION_TAG, Version, version_of
from schemas.masking import masked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run as RunEntity


class Run:
    """A run to log to: an active run from `Registry.start_run`, or an ended run from `Registry.run`.

    Attributes:
        run_id: id of the run.
        notices: one line for each item that could not be drawn or logged, see `notice_on_error`.
    """

    def __init__(self, client: MlflowClient, entity: RunEntity) -> None:
        self.run_id: str = entity.info.run_id
        self.notices: list[str] = []
        self._client = client
        self._step = 0
        self._experiment_id: str = entity.info.experiment_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings, which cannot be changed afterwards. Values that are too long for MLflow are cut.

        Secrets in the values are masked.
        """
        values = [Param(key, masked(str(value))[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
        with self._store_errors():
            for first in range(0, len(values), 100):  # MLflow's limit for one batch
                self._client.log_batch(self.run_id, params=values[first : first + 100])

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Add the metrics of a training epoch to their curves; ``epoch`` includes the epoch's number."""
        self.log_points(
            {name: value for name, value in epoch.items() if name != "epoch"}, int(epoch["epoch"])
        )

    def log_points(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point to the curve of each metric, at ``step``: an epoch, a horizon or a lag."""
        self._step = max(self._step, step)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        points = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        with self._store_errors():
            self._client.log_batch(self.run_id, metrics=points)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Set the final value of each metric.

        It is logged at the highest step so far, because MLflow shows the value of the highest step as the
        last one.
        """
        self.log_points(metrics, self._step)

    @contextmanager
    def notice_on_error(self, what: str) -> Iterator[None]:
        """Turn any error of the block into a line of ``notices``: that ``what`` is missing, and why.

        Use it for everything that is logged about a trained model, so that such an error does not lose the
        training.
        """
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.notices.append(
                masked(f"the run lacks {what}, which could not be made: {lines[0].rstrip('.')}")
            )

    def log_figure(self, draw: Callable[[], Figure], path: str) -> None:
        """Store a Matplotlib figure among the run's files; on an error, add a line to ``notices``.

        Args:
            draw: function that draws the figure.
            path: path among the run's files, such as ``plots/loss.png``.
        """
        with self.notice_on_error(path), self._store_errors():
            self._client.log_figure(self.run_id, draw(), path)

    def log_scale(self, scale: Mapping[str, float]) -> None:
        """Store the unit of each series' errors on the training rows (`forecaster.evaluation.scores`)."""
        frame = pl.DataFrame({"series_id": list(scale), "scale": list(scale.values())})
        self.log_frame(frame.cast({"series_id": pl.String, "scale": pl.Float64}), SCALE_FILE)

    def log_file(self, file: Path, path: str = "") -> None:
        """Store a file among the run's files, in their folder ``path``."""
        with self._store_errors():
            self._client.log_artifact(self.run_id, str(file), path or None)

    def log_frame(self, frame: pl.DataFrame, path: str) -> None:
        """Store a frame among the run's files; the suffix of ``path`` is .json, .csv or .parquet.

        MLflow shows a .json file as a table.

        Raises:
            ValueError: ``path`` has another suffix.
        """
        kind = Path(path).suffix
        if kind not in (".json", ".csv", ".parquet"):
            raise ValueError(f"{path} must end in .json, .csv or .parquet")
        with self._store_errors(), tempfile.TemporaryDirectory() as folder:
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
        """Log a frame as an input of the run: its schema, number of rows and digest, but not its rows.

        Args:
            frame: the training data; equal frames have equal digests.
            name: name in overviews.
            source: file, folder or address of the data.
            context: purpose of the data: ``training``, ``validation``.
        """
        buffer = io.BytesIO()
        frame.rechunk().write_ipc(buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
        with self._store_errors():
            origin = resolve_dataset_source(masked(source))
            data = from_polars(frame, source=origin, name=name, digest=digest)
            tags = [InputTag("mlflow.data.context", context)]
            self._client.log_inputs(self.run_id, [DatasetInput(data._to_mlflow_entity(), tags)])

    def log_model(self, forecaster: Forecaster, model_name: str, example: pl.DataFrame) -> Version:
        """Store a forecaster with its signature, and register it as the next version of ``model_name``.

        The first version of a name becomes its champion.

        Args:
            forecaster: the trained forecaster.
            model_name: the registered model, which is created if it is missing.
            example: a few rows of ``series_id, timestamp, value`` and observed covariates, stored with the
                model.

        Raises:
            ModelError: ``model_name`` is not a valid name, or the store reports an error.
        """
        check_model_name(model_name)
        client, version = self._client, forecaster.version
        with self._store_errors(), tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            tags = {VERSION_TAG: version}
            logged = client.create_logged_model(
                self._experiment_id, ARTIFACT, self.run_id, tags, model_type=forecaster.network_config.cell
            )
            save(forecaster, example, logged, folder / ARTIFACT)
            client.log_model_artifacts(logged.model_id, str(folder / ARTIFACT))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, 0)])
            with ignore_existing():
                client.create_registered_model(model_name)
            # Use models:/ID with a server only: a database would look it up in MLflow's global store.
            remote = client.tracking_uri.startswith("http") and client._registry_uri == client.tracking_uri
            source = f"models:/{logged.model_id}" if remote else logged.artifact_location
            made = client.create_model_version(
                model_name, source, self.run_id, tags, model_id=logged.model_id
            )
            if int(made.version) == 1:
                client.set_registered_model_alias(model_name, DEFAULT_ALIAS, str(made.version))
            return version_of(made, client.get_registered_model(model_name).aliases)

    def _store_errors(self) -> AbstractContextManager[None]:
        """Return a context that raises errors of the store as ModelError with one line."""
        return store_errors(self._client.tracking_uri)
