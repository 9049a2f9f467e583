"""A training run: its settings, curves, files, data sets and models."""

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
from forecaster.registry.refusals import exists_already, speaking
from forecaster.registry.served_model import ARTIFACT, save
from forecaster.registry.store import DEFAULT_ALIAS, check_model_name
from forecaster.registry.versions import SCALE_FILE, VERSION_TAG, Version, version_of
from schemas.masking import masked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run as RunEntity


class Run:
    """A run to log to: one under way, of `Registry.start_run`, or one that has ended, of `Registry.run`.

    Attributes:
        run_id: its id.
        notices: a line for each thing that could not be drawn or logged, see `beside_the_model`.
    """

    def __init__(self, client: MlflowClient, entity: RunEntity) -> None:
        self.run_id: str = entity.info.run_id
        self.notices: list[str] = []
        self._client = client
        self._step = 0
        self._experiment_id: str = entity.info.experiment_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Add settings, which cannot change afterwards; values too long for MLflow are cut.

        Secrets in them are masked.
        """
        values = [Param(key, masked(str(value))[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
        with self._speaking():
            for first in range(0, len(values), 100):  # MLflow's limit of a batch
                self._client.log_batch(self.run_id, params=values[first : first + 100])

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Add the metrics of a training epoch to their curves; ``epoch`` holds the number of the epoch."""
        self.log_points(
            {name: value for name, value in epoch.items() if name != "epoch"}, int(epoch["epoch"])
        )

    def log_points(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve of each metric, at ``step``: an epoch, a horizon or a lag."""
        self._step = max(self._step, step)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        points = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        with self._speaking():
            self._client.log_batch(self.run_id, metrics=points)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Sets the final value of each metric: MLflow takes the one of the highest step for the last."""
        self.log_points(metrics, self._step)

    @contextmanager
    def beside_the_model(self, what: str) -> Iterator[None]:
        """Add a line to ``notices`` instead of raising where ``what`` cannot be computed, drawn or logged.

        For all that is logged of a model that has been trained: none of it is worth the training.
        """
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.notices.append(
                masked(f"the run lacks {what}, which could not be made: {lines[0].rstrip('.')}")
            )

    def log_figure(self, draw: Callable[[], Figure], path: str) -> None:
        """Keeps a Matplotlib figure among the run's files, or adds a line to ``notices`` where it cannot.

        Args:
            draw: draws the figure.
            path: its place among the run's files, as ``plots/loss.png`` or ``.svg``, say.
        """
        with self.beside_the_model(path), self._speaking():
            self._client.log_figure(self.run_id, draw(), path)

    def log_scale(self, scale: Mapping[str, float]) -> None:
        """Keeps the unit of each series' errors on the training rows (`forecaster.evaluation.scores`)."""
        frame = pl.DataFrame({"series_id": list(scale), "scale": list(scale.values())})
        self.log_frame(frame.cast({"series_id": pl.String, "scale": pl.Float64}), SCALE_FILE)

    def log_file(self, file: Path, path: str = "") -> None:
        """Keeps a file among the run's files, in the folder ``path`` of these."""
        with self._speaking():
            self._client.log_artifact(self.run_id, str(file), path or None)

    def log_frame(self, frame: pl.DataFrame, path: str) -> None:
        """Keeps a frame among the run's files, by its ending: .json (MLflow shows a table), .csv or .parquet.

        Raises:
            ValueError: ``path`` has another ending.
        """
        kind = Path(path).suffix
        if kind not in (".json", ".csv", ".parquet"):
            raise ValueError(f"{path} must end in .json, .csv or .parquet")
        with self._speaking(), tempfile.TemporaryDirectory() as folder:
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
        with self._speaking():
            origin = resolve_dataset_source(masked(source))
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
        with self._speaking(), tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            tags = {VERSION_TAG: version}
            logged = client.create_logged_model(
                self._experiment_id, ARTIFACT, self.run_id, tags, model_type=forecaster.network_config.cell
            )
            save(forecaster, example, logged, folder / ARTIFACT)
            client.log_model_artifacts(logged.model_id, str(folder / ARTIFACT))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, 0)])
            with exists_already():
                client.create_registered_model(model_name)
            # A database's registry would look models:/ID up in MLflow's global store; a server in its own.
            remote = client.tracking_uri.startswith("http") and client._registry_uri == client.tracking_uri
            source = f"models:/{logged.model_id}" if remote else logged.artifact_location
            made = client.create_model_version(
                model_name, source, self.run_id, tags, model_id=logged.model_id
            )
            if int(made.version) == 1:
                client.set_registered_model_alias(model_name, DEFAULT_ALIAS, str(made.version))
            return version_of(made, client.get_registered_model(model_name).aliases)

    def _speaking(self) -> AbstractContextManager[None]:
        return speaking(self._client.tracking_uri)
