"""What a store of models answers: versions, runs and promotions as plain values and frames."""

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
"""The file of a training run that keeps the unit of each series' errors on the training rows."""
_UTC = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Version:
    """A registered version of a model.

    Attributes:
        name: name of the registered model.
        number: its version number, from 1.
        run_id: run that logged it.
        model_version: `Forecaster.version`, which forecasts and states carry.
        aliases: aliases that point at it, in order.
        created: when it was registered (UTC).
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
    """An alias that was moved: from which version (None: the alias is new) to which."""

    alias: str
    previous: Version | None
    version: Version


@dataclass(frozen=True)
class RunOverview:
    """A run in one line.

    Attributes:
        name: name of the run.
        run_id: its id.
        status: RUNNING, FINISHED, FAILED or KILLED.
        cell: recurrent cell it trained, None where it named none.
        started: when it started (UTC).
        seconds: how long it took, None while it runs.
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
    """One row a version: ``name, version, aliases, model_version, run_id, created``."""
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
    """One row a run: ``name, run_id, status, cell, started, seconds`` and every validation metric."""
    names = sorted({name for run in runs for name in run.metrics if name.startswith("validation")})
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


def version_of(found: ModelVersion, aliases: Mapping[str, object]) -> Version:
    """A version as we say it; ``aliases`` are those of its model, with the number each points at."""
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


def overview_of(run: Run) -> RunOverview:
    """A run as we say it."""
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
