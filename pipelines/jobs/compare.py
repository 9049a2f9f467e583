"""Compare two models on recent data, and log an MLflow run with tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from forecaster.config import CovariatesConfig
from forecaster.covariates.encoding import SERIES, Table
from forecaster.evaluation.paired_comparison import PairedComparison, check_comparable, compare, limits_of
from forecaster.model import Forecaster
from forecaster.registry.registry import Registry, Run
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import window_notices
from forecaster.time.windows import MICROSECONDS, Windows
from pipelines.jobs.comparison_log import log_comparison
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import missing_tables, read_tables, with_tables
from pipelines.sources.files.load_all import load_observations
from schemas import cells, replaced
from schemas.errors import ConfigError, DataError

_MOST_CLASSES = 40


class Contender(NamedTuple):
    """One of the two models of a comparison.

    Attributes:
        ref: reference by which the user named the model.
        forecaster: the model.
        trained_until: end of the last window that the weights have learned from; None if it is unknown.
    """

    ref: str
    forecaster: Forecaster
    trained_until: datetime | None


@dataclass(frozen=True)
class Compared:
    """The result of a comparison of a champion and a challenger.

    Attributes:
        refs: references of the champion and of the challenger.
        comparison: the numbers.
        scored: issue times of the first and of the last scored forecast.
        run_id: MLflow run.
        notices: lines that the user should see.
    """

    refs: tuple[str, str]
    comparison: PairedComparison = field(repr=False)
    scored: tuple[datetime, datetime]
    run_id: str
    notices: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        refs = {"champion_ref": self.refs[0], "challenger_ref": self.refs[1]}
        scored = {"scored_from": self.scored[0].isoformat(), "scored_to": self.scored[1].isoformat()}
        return {**refs, **scored, "run_id": self.run_id, **self.comparison.as_json()}


def run_compare(config: JobConfig, champion: str, challenger: str, progress: Progress = SILENT) -> Compared:
    """Compare two models on the data of a job, and log the comparison in MLflow.

    The rows are aggregated to the champion's windows. The first windows warm the models up and are not
    scored. Windows that either model was trained on are not scored either.

    Args:
        config: data, covariates, gate and MLflow store.
        champion: reference of the model in use.
        challenger: reference of the model that may replace it.
        progress: functions that report the progress.

    Raises:
        StatecastError: a file, a setting, a model or the store is at fault; the message is one line.
    """
    registry = open_registry(config.mlflow)
    with comparing(registry, config, champion, challenger, progress) as (_, compared):
        return compared


@contextmanager
def comparing(
    registry: Registry, config: JobConfig, champion: str, challenger: str, progress: Progress
) -> Iterator[tuple[Run, Compared]]:
    """Compare two models as in `run_compare`; the ``with`` block can log more in the same MLflow run."""
    contenders = contender(registry, champion), contender(registry, challenger)
    check_comparable(contenders[0].forecaster, contenders[1].forecaster)
    data = read_recent(config, contenders[0].forecaster, progress.rows)
    with comparing_on(registry, config, contenders, data, progress.windows) as found:
        yield found


def contender(registry: Registry, ref: str) -> Contender:
    """Load the model that ``ref`` names, for a comparison.

    Raises:
        ModelError: there is no such model.
    """
    return Contender(ref, registry.load(ref), registry.aliases.trained_until(ref))


class RecentData(NamedTuple):
    """The recent observations that a comparison or a retraining uses, and their windows.

    Attributes:
        rows: the observations.
        windows: the observations, aggregated to the windows of the model in use.
        notices: lines that the user should see.
    """

    rows: pl.DataFrame
    windows: Windows
    notices: tuple[str, ...]


def read_recent(config: JobConfig, forecaster: Forecaster, on_rows: Callable[[int], None]) -> RecentData:
    """Read the files of a job, and aggregate their rows to the windows of ``forecaster``.

    Raises:
        DataError: a file cannot be read, or no row is valid.
    """
    own = config.model_copy(update={"windows": forecaster.window_config})
    loaded = load_observations(own, on_rows)
    found = aggregate(loaded.rows, own.windows, keep=config.data.duplicates)
    lost = replaced.notice(len(found.replaced), "in the input, where they stay")
    gaps = window_notices(found.windows.filled, own.windows)
    return RecentData(loaded.rows, found.windows, (*loaded.notices, *loaded.skipped, *lost, *gaps))


@contextmanager
def comparing_on(
    registry: Registry,
    config: JobConfig,
    contenders: tuple[Contender, Contender],
    data: RecentData,
    on_windows: Callable[[int], None],
) -> Iterator[tuple[Run, Compared]]:
    """Compare two models on ``data``; the ``with`` block can log more in the same MLflow run.

    Raises:
        StatecastError: the models or the data cannot be compared; the message is one line.
    """
    champion, challenger = contenders
    params = {key: value for key, value in config.flat().items() if key.startswith("gate.")}
    tags = {
        "statecast.job": "compare",
        "statecast.champion": f"{champion.ref} = {champion.forecaster.version}",
        "statecast.challenger": f"{challenger.ref} = {challenger.forecaster.version}",
    }
    with registry.start_run(f"{challenger.ref} against {champion.ref}", params, tags) as run:
        run.log_dataset(data.rows, config.data.paths, "evaluation")
        yield run, _compare(run, config, contenders, data, on_windows)


def _compare(
    run: Run,
    config: JobConfig,
    contenders: tuple[Contender, Contender],
    data: RecentData,
    on_windows: Callable[[int], None],
) -> Compared:
    """Compare two models on ``data``, log the comparison in the MLflow run ``run``, and return it."""
    windows = data.windows
    champion, challenger = _with_own_tables([one.forecaster for one in contenders], config.covariates)
    absent = [line for model in (champion, challenger) for line in missing_tables(model, config.covariates)]
    first, unknown = first_scored_row(config, windows, contenders)
    classes = _classes(config, windows)
    found = compare(champion, challenger, windows, first, classes, config.gate.confidence, on_windows)
    freq = champion.window_config.frequency
    bounds_us = freq.end_us(windows.index[[first - 1, first + found.issues - 2]])
    start, end = (datetime.fromtimestamp(us / MICROSECONDS, UTC) for us in bounds_us.tolist())
    log_comparison(run, found)
    lines = (*data.notices, *dict.fromkeys(absent), *unknown, *found.notices, *run.notices)
    return Compared((contenders[0].ref, contenders[1].ref), found, (start, end), run.run_id, lines)


def _with_own_tables(models: Sequence[Forecaster], config: CovariatesConfig) -> list[Forecaster]:
    """Return models with the covariate tables of a job; each gets only covariates that it was trained with.

    Raises:
        ConfigError: the job names a table of known covariates or a column that neither was trained with.
    """
    features = [model.covariates.features for model in models]
    known = config.known if any(one.known for one in features) else ""
    observed = {name for one in features for name in one.observed}
    if known != config.known or not observed.issuperset(config.observed):
        with_tables(models[0], config)  # raises the ConfigError
    return [
        with_tables(
            model,
            CovariatesConfig(
                known=config.known if one.known else "",
                static=config.static if one.static else "",
                observed=tuple(name for name in config.observed if name in one.observed),
            ),
        )
        for model, one in zip(models, features, strict=True)
    ]


def first_scored_row(
    config: JobConfig, windows: Windows, contenders: tuple[Contender, Contender]
) -> tuple[int, list[str]]:
    """Return the number of the first window that a comparison scores, and notices for the user.

    The earlier windows warm the models up. They fill the longer ring of the two models, but are at most half
    of all windows. Neither model was trained on a scored window, if the end of its training is recorded.

    Raises:
        DataError: too few rows are left.
    """
    models = [one.forecaster for one in contenders]
    rows, freq = len(windows.values), models[0].window_config.frequency
    first = max(min(max(model.network_config.ring for model in models), rows // 2), 1)
    after, notices = "the rows that warm the models up", []
    for one in contenders:
        if one.trained_until is None:
            notices.append(
                f"{one.ref} does not record until when it was trained: rows that it has learned from may be "
                "among the scored ones"
            )
            continue
        seen = freq.window_of(round(one.trained_until.timestamp() * MICROSECONDS))
        row = int(np.searchsorted(windows.index, seen))
        if row > first:
            first, after = row, f"{one.trained_until:%Y-%m-%d %H:%M} UTC, until when {one.ref} was trained"
    horizon, _, _ = limits_of(*models)
    if rows - first < horizon + 1:
        raise DataError(
            f"{config.data.paths[0]}: {max(rows - first, 0):,} windows lie after {after}, too few to compare "
            f"forecasts {horizon} windows ahead: give newer rows"
        )
    return first, notices


def _classes(config: JobConfig, windows: Windows) -> list[str] | None:
    """Return the class of each series: its value in the column ``gate.classes``; None without this setting.

    Raises:
        ConfigError: there is no such column, or it has too many values.
    """
    column = config.gate.classes
    if not column:
        return None
    table: Table | None = read_tables(config.covariates).static
    if table is None or column not in table.frame.columns:
        if table is None:
            reason = "covariates.static names no file: set it to the file with this column"
        else:
            reason = f"{table.name} has no such column: name one of its columns"
        raise ConfigError(f"gate.classes is {column!r}, but {reason}")
    ids, values = cells.names(table.frame[SERIES]), table.frame[column].cast(pl.String).fill_null("missing")
    by_series: Mapping[str, str] = dict(zip(ids, values, strict=True))
    found = [by_series.get(name, "missing") for name in windows.series_ids]
    if (count := len(set(found))) > _MOST_CLASSES:
        raise ConfigError(
            f"gate.classes: {column!r} has {count:,} different values, but at most {_MOST_CLASSES} are "
            "allowed: choose another column"
        )
    return found
