"""Model versions, runs and promotions as plain values and frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

VERSION_TAG = "model_version"
SCALE_FILE = "series_scale.parquet"
"""File of a training run with the unit of each series' errors on the training rows."""
_UTC = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Version:
    """A registered version of a model.

    Attributes:
        name: name of the registered model.
        number: version number, from 1.
        run_id: the run that logged the version.
        model_version: `Forecaster.version`, which is also stored with forecasts and states.
        aliases: aliases of the version, sorted.
        created: time of registration (UTC).
    """

    name: str
    number: int
    run_id: str
    model_version: str
    aliases: tuple[str, ...]
    created: datetime

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Promotion(NamedTuple):
    """A changed alias: its previous version (None if the alias is new) and its new version."""

    alias: str
    previous: Version | None
    version: Version


class Sent(NamedTuple):
    """An unsent run that is now in MLflow.

    Attributes:
        run_id: the run.
        version: the version that it registered; None if it trained no model.
        notices: one line for each part that the store refused.
    """

    run_id: str
    version: Version | None
    notices: tuple[str, ...]


@dataclass(frozen=True)
class RunOverview:
    """Overview of a run.

    Attributes:
        name: name of the run.
        run_id: id of the run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        cell: recurrent cell that was trained; None if no parameter names it.
        started: start time (UTC).
        seconds: duration; None while the run lasts.
        metrics: last value of every metric.
    """

    name: str
    run_id: str
    status: str
    cell: str | None
    started: datetime
    seconds: float | None
    metrics: Mapping[str, float]


def versions_frame(versions: Sequence[Version]) -> pl.DataFrame:
    """Return one row per version: ``name, version, aliases, model_version, run_id, created``."""
    return pl.DataFrame(
        {
            "name": pl.Series([v.name for v in versions], dtype=pl.String),
            "version": pl.Series([v.number for v in versions], dtype=pl.Int64),
            "aliases": pl.Series([list(v.aliases) for v in versions], dtype=pl.List(pl.String)),
            "model_version": pl.Series([v.model_version for v in versions], dtype=pl.String),
            "run_id": pl.Series([v.run_id for v in versions], dtype=pl.String),
            "created": pl.Series([v.created for v in versions], dtype=_UTC),
        }
    )


def runs_frame(runs: Sequence[RunOverview]) -> pl.DataFrame:
    """Return one row per run: ``name, run_id, status, cell, started, seconds`` and its metrics.

    The metrics are those of the groups ``backtest`` and ``sweep`` and of the validation, without curves by
    horizon.
    """
    names = sorted({name for run in runs for name in run.metrics if _is_final(name)})
    return pl.DataFrame(
        {
            "name": pl.Series([run.name for run in runs], dtype=pl.String),
            "run_id": pl.Series([run.run_id for run in runs], dtype=pl.String),
            "status": pl.Series([run.status for run in runs], dtype=pl.String),
            "cell": pl.Series([run.cell for run in runs], dtype=pl.String),
            "started": pl.Series([run.started for run in runs], dtype=_UTC),
            "seconds": pl.Series([run.seconds for run in runs], dtype=pl.Float64),
            **{name: pl.Series([run.metrics.get(name) for run in runs], dtype=pl.Float64) for name in names},
        }
    )


def _is_final(name: str) -> bool:
    """Return whether a metric is one by which runs are compared."""
    return name.endswith("_validation") or (name.startswith("backtest/") and "_by_" not in name)


def version_of(found: ModelVersion, aliases: Mapping[str, object]) -> Version:
    """Convert MLflow's record of a version; ``aliases`` maps the aliases of its model to numbers."""
    return Version(
        name=found.name,
        number=int(found.version),
        run_id=found.run_id or "",
        model_version=found.tags.get(VERSION_TAG, ""),
        aliases=tuple(
            sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
        ),
        created=_instant(found.creation_timestamp),
    )


def run_overview(run: Run) -> RunOverview:
    """Convert MLflow's record of a run."""
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
    """Return a time in milliseconds since 1970 as a datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
