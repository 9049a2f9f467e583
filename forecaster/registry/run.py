"""A run in MLflow: settings, metrics, files, data sets and models are logged to it.

An entry that MLflow does not take at once waits in the outbox of the run (`forecaster.registry.outbox`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from forecaster import durable
from forecaster.model import Forecaster
from forecaster.registry import outbox
from forecaster.registry.connection import Connection
from forecaster.registry.datasets import described, table_json
from forecaster.registry.metric_names import epoch_metric
from forecaster.registry.outbox import Entry, Outbox
from forecaster.registry.references import check_model_name
from forecaster.registry.refusals import reason_of
from forecaster.registry.sender import EXAMPLE, Sender
from forecaster.registry.store import Store
from forecaster.registry.unsent_lines import incomplete_message, notices, unregistered_message
from forecaster.registry.versions import Version, now_ms
from schemas.errors import ModelError
from schemas.masking import masked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A run to which results are logged: `Registry.start_run` or `Registry.reopen` returns it.

    If the store cannot be reached, entries wait in the outbox; only `registered` and `send` raise an error
    then.

    Attributes:
        notices: one line for each item that could not be drawn or logged, see `notice_on_error`.
    """

    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        self.notices: list[str] = []
        self._outbox, self._sender = outbox, Sender(connection, outbox)
        self._connection = connection
        self._tables: list[dict[str, str]] = list(outbox.run.get("tables", ()))
        self._incomplete: ModelError | None = None

    @property
    def run_id(self) -> str:
        """Id of the run; empty until the store has created the run."""
        return str(self._outbox.run.get("run_id", ""))

    @property
    def is_away(self) -> bool:
        """Whether the last attempt to send entries failed, so that entries wait in the outbox."""
        return bool(self._sender.reason)

    @property
    def version(self) -> Version | None:
        """The version that the run registered; None as long as no version is registered."""
        return self._sender.version

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings of the run: long values are truncated, and secrets in URLs are masked.

        A setting that is logged cannot be changed later.
        """
        values = {key: masked(str(value))[:MAX_PARAM_VAL_LENGTH] for key, value in params.items()}
        if values:
            self._log({"kind": "params", "values": values})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; secrets in URLs are masked."""
        self._log({"kind": "tags", "values": {key: masked(value) for key, value in tags.items()}})

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Add the metrics of a training epoch to their curves, at the step ``epoch["epoch"]``.

        `forecaster.registry.metric_names` defines the names of the metrics.
        """
        numbers = {epoch_metric(name): value for name, value in epoch.items() if name != "epoch"}
        self.log_points(numbers, int(epoch["epoch"]))

    def log_points(self, metrics: Mapping[str, float], step: int, *, of_model: bool = False) -> None:
        """Add one point to the curve of each metric, at ``step``, such as the number of an epoch."""
        self.log_curves({step: metrics}, of_model=of_model)

    def log_curves(self, curves: Mapping[int, Mapping[str, float]], *, of_model: bool = False) -> None:
        """Add points to curves: ``curves`` maps each step to values by metric name.

        MLflow shows the values beside the model, too, if they measure the run's own model (``of_model``).
        """
        at_ms, of_steps = now_ms(), curves.items()
        points = [[name, float(x), at_ms, step] for step, values in of_steps for name, x in values.items()]
        self._log({"kind": "metrics", "points": points, "of_model": of_model})

    def log_metrics(self, metrics: Mapping[str, float], *, of_model: bool = False) -> None:
        """Log metrics that have one value for the whole run, at step 0."""
        self.log_points(metrics, 0, of_model=of_model)

    @contextmanager
    def notice_on_error(self, what: str) -> Iterator[None]:
        """Catch an exception of the ``with`` block; add to ``notices`` that the run lacks ``what``, and why.

        Use it for everything that is computed after a training: an error there must not lose the model.
        """
        try:
            yield
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            self.notices.append(masked(f"the run lacks {what}, which could not be made: {line}"))

    def log_figure(self, draw: Callable[[], Figure], path: str) -> None:
        """Store a Matplotlib figure among the run's files; on an error, add a line to ``notices``.

        Args:
            draw: function that draws the figure.
            path: path among the run's files, such as ``plots/loss.png``.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # import late: most runs draw no figure

        with self.notice_on_error(path):
            figure = draw()
            # Draw on a canvas: `Figure.savefig` would draw twice, the first time only for the layout.
            canvas: Any = FigureCanvasAgg(figure)  # Matplotlib's methods have no type annotations
            self._write_and_log(path, lambda file: canvas.print_png(str(file)))

    def log_file(self, file: Path, path: str = "") -> None:
        """Store a file among the run's files, in the folder ``path``."""
        self._write_and_log(str(Path(path) / file.name), lambda hidden: hidden.write_bytes(file.read_bytes()))

    def log_text(self, text: str, path: str) -> None:
        """Store a text among the run's files at ``path``; secrets in URLs are masked."""
        self._write_and_log(path, lambda hidden: hidden.write_text(masked(text), encoding="utf-8"))

    def log_frame(self, frame: pl.DataFrame, path: str) -> None:
        """Store a frame among the run's files; the suffix of ``path`` is .json, .csv or .parquet.

        MLflow shows a .json file as a table.

        Raises:
            ValueError: ``path`` has another suffix.
        """
        kind = Path(path).suffix
        if kind not in (".json", ".csv", ".parquet"):
            raise ValueError(f"{path} must end in .json, .csv or .parquet")
        if kind == ".json":
            self._tables.append({"path": path, "type": "table"})
            tables = json.dumps(self._tables)
            self._write_and_log(path, lambda file: file.write_bytes(table_json(frame)), tables=tables)
        else:
            self._write_and_log(path, frame.write_csv if kind == ".csv" else frame.write_parquet)

    def log_dataset(self, frame: pl.DataFrame, paths: Sequence[str], context: str = "training") -> None:
        """Log a frame as an input of the run: its files, time span, schema, size and digest, but no rows.

        Args:
            frame: the observations; equal frames have equal digests.
            paths: files, folders or addresses of the data.
            context: purpose of the data: ``training``, ``validation``.
        """
        data = described(frame, tuple(masked(path) for path in paths))
        self._log({"kind": "dataset", "dataset": data, "context": context, "name": data["name"]})

    def log_model(
        self,
        forecaster: Forecaster,
        model_name: str,
        example: pl.DataFrame,
        tags: Mapping[str, str] | None = None,
    ) -> Version | None:
        """Save a forecaster in the outbox, then send it to MLflow as the next version of ``model_name``.

        The version has no alias until `name_first_version` or `Registry.promote` gives it one.

        Args:
            forecaster: the trained forecaster.
            model_name: the registered model, which is created if it is missing.
            example: a few observations, which are stored with the model.
            tags: tags of the version, see `forecaster.registry.aliases.training_tags`.

        Returns:
            The version; None while the model waits in the outbox. Call `registered` at the end of the run.

        Raises:
            ModelError: ``model_name`` is not a valid name.
            OSError: the model cannot be saved.
        """
        check_model_name(model_name)
        # Remove model id and version of an earlier model of this run, so that the new model gets its own.
        for key in ("model_id", "version"):
            self._outbox.run.pop(key, None)
        folder = self._outbox.model
        forecaster.save(folder)
        durable.write_whole(folder / EXAMPLE, example.write_parquet)
        self._outbox.add({"kind": "model", "name": model_name, "tags": dict(tags or {})})
        self._outbox.save()
        self._sender.send(now=True)
        return self._sender.version

    def name_first_version(self, model_name: str, alias: str, why: str) -> None:
        """Give ``alias`` to the version that the run registered, unless the registered model has a champion.

        Args:
            model_name: the registered model.
            alias: the alias, ``champion`` or ``challenger``.
            why: reason, one line.
        """
        self._log({"kind": "first_alias", "name": model_name, "alias": alias, "why": why})

    def link_model(self, model_id: str) -> None:
        """Make a model of another run an input of this run, because this run evaluates that model."""
        self._outbox.run["model_id"] = model_id
        self._log({"kind": "input_model"})

    def describe_version(self, model_name: str, text: str) -> None:
        """Log a description of the version that the run registers.

        The description is ``text``, and how the version relates to the champion when the entry is sent.

        A run that registers no version sets no description.
        """
        self._log({"kind": "description", "name": model_name, "text": masked(text)})

    def registered(self) -> Version:
        """Send the unsent entries of the outbox, and return the version that the run has registered.

        Raises:
            ModelError: the store did not take the model; the message names the folder of the model and the
                command that finishes the run.
        """
        self._send_now()
        if self.version is None:
            raise self._error_for_unsent_entries(unregistered_message)
        return self.version

    def send(self) -> None:
        """Send the unsent entries of the outbox to the MLflow store.

        Raises:
            ModelError: the store did not take all entries; the message names the folder with the unsent
            entries.
        """
        self._send_now()
        if self._outbox.folder is not None:
            raise self._error_for_unsent_entries(incomplete_message)

    def end(self, status: str, error: BaseException | None = None) -> None:
        """Send the unsent entries of the outbox, and end the run in MLflow with ``status``.

        If ``error`` reports the unsent entries of a complete run, nothing is sent and ``status`` is not used.
        If the store can be reached, MLflow then shows the run as FAILED until its entries are sent. After
        that it shows the run as FINISHED.

        Args:
            status: FINISHED, FAILED or KILLED.
            error: the error that ended the run; it becomes a tag and the note of the run.
        """
        if error is not None and error is self._incomplete:
            # The work is complete, but the outbox has unsent entries. The entry added here sets the
            # run's status to FINISHED when it is sent. Until then, the store shows the run as FAILED if the
            # call of ``set_terminated`` reaches the store.
            self._outbox.add({"kind": "end", "status": "FINISHED", "ended_ms": now_ms()})
            self._outbox.save()
            with suppress(Exception):  # ignore any error: the store may be unreachable
                self._connection.client().set_terminated(self.run_id, "FAILED")
            return
        if error is not None:
            line = reason_of(error)
            tags = {"statecast.error": line, "mlflow.note.content": line}
            self._outbox.add({"kind": "tags", "values": tags})
        self._outbox.add({"kind": "end", "status": status, "ended_ms": now_ms()})
        self._send_now()

    def _error_for_unsent_entries(self, line: Callable[[Store, str, Path], str]) -> ModelError:
        """Return the error to raise if a run's work is complete, but the store lacks some of its entries.

        `end` recognises this error.
        """
        folder = self._outbox.make_folder()
        self._incomplete = ModelError(line(self._connection.runs, self._sender.reason, folder))
        return self._incomplete

    def _send_now(self) -> None:
        """Send the unsent entries; add lines to ``notices`` about refused, dropped and still unsent ones."""
        self._sender.send(now=True)
        lines = notices(self._sender.refused, self._outbox.dropped)
        if (folder := self._outbox.folder) is not None:
            lines.append(incomplete_message(self._connection.runs, self._sender.reason, folder))
        self.notices += [line for line in lines if line not in self.notices]

    def _write_and_log(self, path: str, write: Callable[[Path], Any], **more: str) -> None:
        """Write a file into the outbox, and add an entry for it, so that the file is sent to the store."""
        entry: Entry = {"kind": "file", "path": path, "name": path, **more}
        file = self._outbox.file(entry)
        durable.make_folder(file.parent)
        durable.write_whole(file, write, kept=False)
        self._log(entry)

    def _log(self, entry: Entry) -> None:
        """Add an entry to the outbox, and try to send all unsent entries.

        A full disk adds a notice and does not stop a training: the entries stay in memory.
        """
        self._outbox.add(entry)
        try:
            self._sender.send()
        except OSError as error:
            line = f"the unsent part of the run cannot be written to {outbox.FOLDER} ({error.strerror})"
            self.notices += [line] if line not in self.notices else []
