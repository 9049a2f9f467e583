"""Send the entries of an outbox to MLflow in order, and keep the entries that a later attempt must send."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_MODEL_VERSIONS

from forecaster.model import Forecaster
from forecaster.registry.aliases import Aliases
from forecaster.registry.connection import Connection
from forecaster.registry.outbox import Entry, Outbox
from forecaster.registry.references import DEFAULT_ALIAS
from forecaster.registry.refusals import ignore_existing
from forecaster.registry.served_model import save
from forecaster.registry.versions import MODEL_TAG, VERSION_TAG, Version, version_of
from schemas.errors import ModelError, one_line
from schemas.masking import masked

EXAMPLE = "example.parquet"
# MLflow accepts at most `_MOST_PARAMS` params and at most `_MOST_METRICS` metrics in one request.
_MOST_PARAMS, _MOST_METRICS = 100, 1000
_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")


class Sender:
    """Sends the entries of one outbox to MLflow, and keeps the entries that a later attempt must send.

    An entry that the store refuses for good is dropped, but a model or a file is kept even then.

    Attributes:
        reason: the first error for which an entry was kept; empty if there was none in the last attempt.
        refused: one line for each entry that was dropped because the store will never take it.
        version: the registered version, once the model has been sent.

    Args:
        connection: the stores.
        outbox: the entries to send.
    """

    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        self.reason = ""
        self.refused: list[str] = []
        self.version: Version | None = None
        self._connection, self._outbox = connection, outbox
        self._kinds: dict[str, Callable[[Entry], None]] = {
            "metrics": self._send_metrics,
            "params": self._send_params,
            "tags": self._send_tags,
            "file": self._send_file,
            "dataset": self._send_dataset,
            "input_model": self._send_input_model,
            "model": self._send_model,
            "first_alias": self._send_first_alias,
            "description": self._send_description,
            "end": self._send_end,
        }

    def send(self, *, now: bool = False) -> None:
        """Send the entries of the outbox if the store answers; save the outbox with the entries still unsent.

        A store that could not be reached is tried again after a while (`Connection.mark_away`), or at once
        with ``now``.

        Raises:
            OSError: the entries cannot be written to the disk.
        """
        connection = self._connection
        if connection.is_away and (now or connection.may_retry):
            self.reason = self._probe()
            if self.reason:
                connection.mark_away()
            else:
                connection.mark_present()
        if not connection.is_away:
            self._send_all(now)
        self._outbox.save()

    def _send_all(self, now: bool) -> None:
        """Send the waiting entries in order, and keep the entries that a later attempt must send.

        An entry that the store refuses is dropped, and a line about it is added to ``refused``; but a model
        or a file is kept even then.

        Args:
            now: whether files that the store did not take before are tried again, which can take long.
        """
        self.reason, waiting = "", self._outbox.entries
        if not waiting or not self._create_run():
            return
        kept: list[Entry] = []
        for number, entry in enumerate(waiting):
            if self._waits(entry, kept) or (entry.get("is_put_off") and not now):
                kept.append(entry)
                continue
            try:
                with self._connection.errors():
                    self._kinds[entry["kind"]](entry)
            except Exception as error:
                if _is_final(error) and entry["kind"] not in ("model", "file"):
                    self.refused.append(f"{_description_of(entry)}: {one_line(error)}")
                    continue
                kept.append(entry)
                self.reason = self.reason or one_line(error)
                # If the store still answers, only its storage of files has failed: put this entry off, and
                # go on to the other entries.
                if entry["kind"] in ("model", "file") and not self._probe():
                    entry["is_put_off"] = True
                    continue
                self._connection.mark_away()
                kept += waiting[number + 1 :]
                break
        self._outbox.entries = kept

    def _create_run(self) -> bool:
        """Create the run in MLflow if it does not exist yet; return False if MLflow cannot create it."""
        run = self._outbox.run
        if not run.get("run_id"):
            try:
                with self._connection.errors():
                    made = self._connection.client().create_run(
                        self._connection.experiment_id(), run["started_ms"], run["tags"], run["name"]
                    )
            except ModelError as error:
                self.reason = one_line(error)
                self._connection.mark_away()
                return False
            run["run_id"], run["experiment_id"] = made.info.run_id, made.info.experiment_id
        return True

    def _waits(self, entry: Entry, kept: list[Entry]) -> bool:
        """Return True if ``kept`` holds an unsent model, and the entry concerns the model or ends the run."""
        follows_model = entry.get("of_model") or entry["kind"] in ("first_alias", "description", "end")
        return bool(follows_model) and any(one["kind"] == "model" for one in kept)

    def _probe(self) -> str:
        """Return the reason why the store of runs cannot be used; empty if it can be used."""
        try:
            self._connection.runs.check()
        except ModelError as error:
            return one_line(error)
        return ""

    @property
    def _run_id(self) -> str:
        return str(self._outbox.run["run_id"])

    def _send_metrics(self, entry: Entry) -> None:
        model_id = self._outbox.run.get("model_id") if entry.get("of_model") else None
        name, digest = self._outbox.run.get("dataset") or (None, None)
        points = [
            Metric(key, float(value), at_ms, step, model_id, name, digest, self._run_id)
            for key, value, at_ms, step in entry["points"]
        ]
        for first in range(0, len(points), _MOST_METRICS):
            self._connection.client().log_batch(self._run_id, metrics=points[first : first + _MOST_METRICS])

    def _send_params(self, entry: Entry) -> None:
        params = [Param(key, value) for key, value in entry["values"].items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._connection.client().log_batch(self._run_id, params=params[first : first + _MOST_PARAMS])

    def _send_tags(self, entry: Entry) -> None:
        tags = [RunTag(key, value) for key, value in entry["values"].items()]
        self._connection.client().log_batch(self._run_id, tags=tags)

    def _send_file(self, entry: Entry) -> None:
        file, folder = self._outbox.file(entry), Path(entry["path"]).parent.as_posix()
        # If the file is missing, an earlier attempt sent it, but died before the entry left the outbox.
        if not file.is_file():
            return
        self._connection.client().log_artifact(self._run_id, str(file), None if folder == "." else folder)
        if tables := entry.get("tables"):
            # MLflow's pages show a JSON file as a table if this tag of the run names the file.
            self._connection.client().set_tag(self._run_id, MLFLOW_LOGGED_ARTIFACTS, tables)
        file.unlink(missing_ok=True)

    def _send_dataset(self, entry: Entry) -> None:
        tags = [InputTag("mlflow.data.context", entry["context"])]
        data = DatasetInput(Dataset(**entry["dataset"]), tags)
        self._connection.client().log_inputs(self._run_id, [data])
        self._outbox.run["dataset"] = (data.dataset.name, data.dataset.digest)

    def _send_input_model(self, entry: Entry) -> None:
        model = LoggedModelInput(self._outbox.run["model_id"])
        self._connection.client().log_inputs(self._run_id, models=[model])

    def _send_model(self, entry: Entry) -> None:
        """Log the model and register it; skip the steps that an earlier attempt completed."""
        run, client = self._outbox.run, self._connection.client()
        forecaster = Forecaster.load(self._outbox.model)
        tags = {VERSION_TAG: forecaster.version} | entry.get("tags", {})
        if not run.get("model_id"):
            run["model_id"] = self._log_model(forecaster, entry, tags)
            self._outbox.save()
        name = entry["name"]
        with ignore_existing():
            client.create_registered_model(name)
        if not run.get("version"):
            logged = client.get_logged_model(run["model_id"])
            # The registry server looks up a source models:/ID in its own store, but the logged model is in
            # the tracking server's store. So use such a source only if one server is both.
            remote = client.tracking_uri.startswith("http") and client._registry_uri == client.tracking_uri
            source = f"models:/{logged.model_id}" if remote else logged.artifact_location
            linked = tags | {MODEL_TAG: run["model_id"]}
            made = client.create_model_version(name, source, self._run_id, linked, model_id=logged.model_id)
            run["version"] = str(made.version)
            self._outbox.save()
        # MLflow's list of models needs this tag to show a model as registered; MLflow does not set it.
        versions = json.dumps([{"name": name, "version": run["version"]}])
        client.set_logged_model_tags(run["model_id"], {MLFLOW_MODEL_VERSIONS: versions})
        found = client.get_model_version(name, run["version"])
        self.version = version_of(found, client.get_registered_model(name).aliases)

    def _log_model(self, forecaster: Forecaster, entry: Entry, tags: dict[str, str]) -> str:
        """Log a model to the run, and return the id of the logged model."""
        client, run = self._connection.client(), self._outbox.run
        cell = forecaster.network_config.cell
        name = f"{entry['name']}-{cell}".translate(str.maketrans("/:.%\"'", "------"))
        logged = client.create_logged_model(run["experiment_id"], name, self._run_id, tags, model_type=cell)
        try:
            with tempfile.TemporaryDirectory() as folder:
                example = pl.read_parquet(self._outbox.model / EXAMPLE)
                save(forecaster, example, logged, Path(folder) / "model")
                client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        except Exception:
            with suppress(Exception):  # raise the first error even if this call fails, too
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, 0)])
        return str(logged.model_id)

    def _send_first_alias(self, entry: Entry) -> None:
        """Point the alias that the entry names at the registered version, unless the model has a champion."""
        name, number = entry["name"], self._outbox.run.get("version")
        aliases = Aliases(self._connection)
        if number and aliases.pointed_to(name, DEFAULT_ALIAS) is None:
            moved = aliases.move(aliases.find(f"{name}/{number}"), entry["alias"], entry["why"])
            self.version = moved.version

    def _send_description(self, entry: Entry) -> None:
        """Set the version's description: the entry's text, and how the version relates to the champion."""
        client, version = self._connection.client(), self._outbox.run.get("version")
        if not version:
            return
        champion = client.get_registered_model(entry["name"]).aliases.get(DEFAULT_ALIAS)
        if version == "1":
            place = "the first version of its model"
        elif champion is None:
            place = "its model has no champion"
        elif str(champion) == version:
            place = "the first champion of its model"
        else:
            place = f"can replace the champion, {entry['name']}/{champion}"
        client.update_model_version(entry["name"], version, f"{entry['text']}; {place}")

    def _send_end(self, entry: Entry) -> None:
        self._connection.client().set_terminated(self._run_id, entry["status"], entry["ended_ms"])


def _is_final(error: Exception) -> bool:
    """Return whether ``error`` is final: the store would refuse the entry in every later attempt, too."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    return isinstance(cause, MlflowException) and cause.error_code in _FINAL


def _description_of(entry: Entry) -> str:
    """Describe the content of an entry, for a notice."""
    if entry["kind"] == "metrics":
        return "the metric " + ", ".join(dict.fromkeys(key for key, *_ in entry["points"]))
    return masked(f"the {entry['kind']} {entry.get('name', '')}".strip())
