"""Overviews of runs and of registered versions as frames, with the metrics by which they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from mlflow.exceptions import MlflowException

from forecaster.registry.connection import Connection
from forecaster.registry.lookup import all_versions
from forecaster.registry.versions import UTC_TIME, Version, instant, versions_frame

if TYPE_CHECKING:
    from mlflow.entities import Run

_RUN_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("name", "run_id", "status", "job", "cell"), pl.String),
    "started": UTC_TIME,
    "seconds": pl.Float64,
}


def runs_of(connection: Connection, limit: int) -> list[Run]:
    """Return the newest ``limit`` runs of the experiment, newest first."""
    client, experiment_id = connection.existing(), connection.existing_experiment_id()
    if experiment_id is None:
        return []
    order = ["attributes.start_time DESC"]
    return list(client.search_runs([experiment_id], max_results=limit, order_by=order))


def models_of(connection: Connection) -> tuple[list[Version], list[Mapping[str, float]]]:
    """Return the registered versions, sorted by name and then newest first, and the metrics of their runs.

    At most 1000 models are read, and at most 1000 versions of each model. A run that cannot be read has no
    metrics.

    Raises:
        ModelError: the store does not exist.
    """
    client = connection.existing()
    names = sorted(model.name for model in client.search_registered_models(max_results=1000))
    versions = [version for name in names for version in all_versions(connection, name)]
    metrics: list[Mapping[str, float]] = []
    for version in versions:
        try:
            metrics.append(client.get_run(version.run_id).data.metrics)
        except MlflowException:  # the run cannot be read: for example, it was deleted for good
            metrics.append({})
    return versions, metrics


def runs_frame(runs: Sequence[Run]) -> pl.DataFrame:
    """Return one row per run: ``name, run_id, status, job, cell, started, seconds`` and its main metrics.

    ``status`` is RUNNING, FINISHED, FAILED or KILLED; ``job``, such as ``train``, and the recurrent ``cell``
    are null for a run without them, and ``seconds`` while the run lasts. There is one column for each metric
    of the groups ``backtest`` and ``test`` and of the validation, but none for curves by horizon.
    """
    rows = pl.DataFrame([_row(run) for run in runs], schema=_RUN_COLUMNS)
    return rows.with_columns(**_columns([run.data.metrics for run in runs]))


def _row(run: Run) -> dict[str, object]:
    start, end = run.info.start_time, run.info.end_time
    cells = (value for key, value in run.data.params.items() if key.rpartition(".")[2] == "cell")
    return {
        "name": run.info.run_name,
        "run_id": run.info.run_id,
        "status": run.info.status,
        "job": run.data.tags.get("statecast.job"),
        "cell": next(cells, None),
        "started": instant(start),
        "seconds": None if end is None else (end - start) / 1000,
    }


def models_frame(versions: Sequence[Version], metrics: Sequence[Mapping[str, float]]) -> pl.DataFrame:
    """Return one row per version, with the metrics of the run that logged it.

    Args:
        versions: the versions.
        metrics: the metrics of the run of each version.

    Returns:
        ``name, version, aliases, model_version, run_id, created, description`` and the metrics, see
        `runs_frame`.
    """
    descriptions = pl.Series([v.description for v in versions], dtype=pl.String)
    return versions_frame(versions).with_columns(description=descriptions, **_columns(metrics))


def _columns(metrics: Sequence[Mapping[str, float]]) -> dict[str, pl.Series]:
    """Return, by name, a column for each metric that `_is_compared` selects; null if a run lacks it."""
    names = sorted({name for row in metrics for name in row if _is_compared(name)})
    return {name: pl.Series([row.get(name) for row in metrics], dtype=pl.Float64) for name in names}


def _is_compared(name: str) -> bool:
    """Return True for a backtest or test score without ``_by_`` in its name, or a validation metric."""
    is_score = name.startswith(("backtest/", "test/")) and "_by_" not in name
    return is_score or name.endswith("_validation")
