"""Begin MLflow runs with tags about their origin, and log use of processor, memory, disk and network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import RunStatus
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID

from forecaster.registry.connection import Connection
from forecaster.registry.killed_runs import PROCESS_TAG, mark_killed_runs, process_tag
from forecaster.registry.lookup import find_run
from forecaster.registry.outbox import Outbox
from forecaster.registry.provenance import provenance
from forecaster.registry.refusals import REFUSALS
from forecaster.registry.run import Run
from forecaster.registry.versions import now_ms

if TYPE_CHECKING:
    from mlflow.entities import Run as RunEntity


def begin_run(
    connection: Connection,
    unsent: Path,
    name: str,
    tags: Mapping[str, str],
    run_id: str = "",
    parent: Run | None = None,
) -> Run:
    """Begin a new run, or continue the run ``run_id`` that ``mlflow run`` created.

    A run with a parent is created when its first entry is sent, so that it can begin while the store cannot
    be reached.

    Raises:
        ModelError: the store reports an error.
    """
    own = provenance() | dict(tags) | {PROCESS_TAG: process_tag()}
    if parent is not None:
        own[MLFLOW_PARENT_RUN_ID] = parent.run_id
    header: dict[str, Any] = {
        "name": name,
        "tags": resolve_tags(own),
        "started_ms": now_ms(),
    }
    if parent is None:
        with connection.errors():
            client, experiment_id = connection.client(), connection.experiment_id()
            # An error while earlier runs are marked as KILLED must not stop this run.
            with suppress(*REFUSALS):
                mark_killed_runs(client, experiment_id)
            if run_id:
                entity = _reopened(connection, run_id, name, header["tags"])
            else:
                entity = client.create_run(experiment_id, header["started_ms"], header["tags"], name)
        header |= {"run_id": entity.info.run_id, "experiment_id": entity.info.experiment_id}
    return Run(connection, Outbox(unsent, header))


def reopen_run(connection: Connection, unsent: Path, run_id: str) -> Run:
    """Return a `Run` that logs further results to the run ``run_id``, which began and ended earlier.

    Raises:
        ModelError: the run does not exist, or the store cannot be reached.
    """
    with connection.errors():
        found = find_run(connection, run_id)
    header: dict[str, Any] = {
        "name": found.info.run_name,
        "run_id": run_id,
        "experiment_id": found.info.experiment_id,
        "tables": json.loads(found.data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]")),
    }
    if found.outputs and found.outputs.model_outputs:
        header["model_id"] = found.outputs.model_outputs[-1].model_id
    return Run(connection, Outbox(unsent, header))


def _reopened(connection: Connection, run_id: str, name: str, tags: Mapping[str, str]) -> RunEntity:
    """Set the status of the run ``run_id`` to running, set its name, add missing tags, and return the run."""
    client, entity = connection.client(), find_run(connection, run_id)
    client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING), name)
    for key, value in tags.items():
        if key not in entity.data.tags:
            client.set_tag(run_id, key, value)
    return entity


@contextmanager
def monitored(run: Run, tracking_uri: str) -> Iterator[None]:
    """Log the use of processor, memory, disk and network to a run during the ``with`` block.

    A run that MLflow does not have yet is not monitored.
    """
    if not run.run_id:
        yield
        return
    monitor = SystemMetricsMonitor(run.run_id, tracking_uri=tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        # If the last attempt to send failed, do not call `monitor.finish`: it would wait for the store.
        if not run.is_away:
            monitor.finish()
