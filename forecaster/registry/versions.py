"""Classes for a registered version, a moved alias and a run sent to MLflow; a data frame of versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

VERSION_TAG = "model_version"
MODEL_TAG = "statecast.logged_model"
"""Tag of a registered version with the id of its logged model, which MLflow's databases do not store."""
SCALE_FILE = "series_scale.parquet"
"""File of a training run with the scale of each series on the training rows."""
UTC_TIME = pl.Datetime("us", "UTC")


def scale_frame(scale: Mapping[str, float]) -> pl.DataFrame:
    """Return the frame that `SCALE_FILE` holds: one row for each series, with its scale."""
    frame = pl.DataFrame({"series_id": list(scale), "scale": list(scale.values())})
    return frame.cast({"series_id": pl.String, "scale": pl.Float64})


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
        description: text about the version; empty if it has none.
    """

    name: str
    number: int
    run_id: str
    model_version: str
    aliases: tuple[str, ...]
    created: datetime
    description: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Promotion(NamedTuple):
    """The move of an alias: the version before the move (None for a new alias), and the version after."""

    alias: str
    previous: Version | None
    version: Version


class Sent(NamedTuple):
    """The result of sending the run of an outbox, or a saved forecaster, to MLflow.

    Attributes:
        run_id: the run.
        version: the version that it registered; None if it trained no model.
        notices: one line for each part that the store refused.
    """

    run_id: str
    version: Version | None
    notices: tuple[str, ...]


def versions_frame(versions: Sequence[Version]) -> pl.DataFrame:
    """Return a frame with one row per version: ``name, version, aliases, model_version, run_id, created``."""
    return pl.DataFrame(
        {
            "name": pl.Series([v.name for v in versions], dtype=pl.String),
            "version": pl.Series([v.number for v in versions], dtype=pl.Int64),
            "aliases": pl.Series([list(v.aliases) for v in versions], dtype=pl.List(pl.String)),
            "model_version": pl.Series([v.model_version for v in versions], dtype=pl.String),
            "run_id": pl.Series([v.run_id for v in versions], dtype=pl.String),
            "created": pl.Series([v.created for v in versions], dtype=UTC_TIME),
        }
    )


def version_of(found: ModelVersion, aliases: Mapping[str, object]) -> Version:
    """Return MLflow's record as a `Version`; ``aliases`` maps the model's aliases to version numbers."""
    return Version(
        name=found.name,
        number=int(found.version),
        run_id=found.run_id or "",
        model_version=found.tags.get(VERSION_TAG, ""),
        aliases=tuple(
            sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
        ),
        created=instant(found.creation_timestamp),
        description=found.description or "",
    )


def now_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1000)


def instant(milliseconds: int) -> datetime:
    """Return a time in milliseconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
