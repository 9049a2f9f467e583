"""The rolling evaluation: train on a file's first rows, replay all of it, judge every member."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import polars as pl

from forecaster.evaluation.metrics import COVERAGE, Tally
from forecaster.evaluation.rolling import FanSample, Split, normalised, rolled, tally, training_scale
from forecaster.model import Forecaster
from forecaster.reports import plots
from forecaster.threads import compute_threads
from forecaster.time.notices import window_notices
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, aggregate
from forecaster.training.train import Epoch, train
from pipelines.jobs.registry import open_registry
from pipelines.jobs.rolling_scores import Evaluated, by_step_of, figures_of, log_into, scored
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import read_tables
from pipelines.sources.files.load_all import Loaded, load_observations
from schemas import replaced
from schemas.errors import DataError

_INTERVAL = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)


@dataclass(frozen=True)
class RollingJob:
    """What a rolling evaluation is asked to do; rows are windows, counted from the file's first, from 0.

    Attributes:
        config: data, windows, network and training settings, and the MLflow store. The network's horizon is
            that of the farthest of ``horizons``; quantiles .05 and .95 join its own unless it names some.
        horizons: steps ahead that are judged.
        train_rows: the first rows, which alone are learned from.
        first: the first test row; None for the one after the training rows.
        stop: one past the last test row; None for the end of the file.
        normalize: ``train`` gives every series mean 0 and standard deviation 1 on its training rows.
        name: what the run is called.
    """

    config: JobConfig
    horizons: tuple[int, ...]
    train_rows: int
    first: int | None = None
    stop: int | None = None
    normalize: Literal["none", "train"] = "none"
    name: str = "evaluation"

    @property
    def settled(self) -> JobConfig:
        """The settings that the network is trained with."""
        network = self.config.network
        changes: dict[str, object] = {"horizon": max(self.horizons)}
        if "quantiles" not in network.model_fields_set:
            near = [level for level in network.quantiles if not np.isclose(level, _INTERVAL).any()]
            changes["quantiles"] = tuple(sorted((*near, *(round(level, 6) for level in _INTERVAL))))
        return self.config.model_copy(update={"network": network.model_copy(update=changes)})

    def params(self) -> dict[str, object]:
        """What the run is told of it."""
        horizons = ",".join(map(str, self.horizons))
        rows = {"train_rows": self.train_rows, "test_from": self.first, "test_to": self.stop}
        own = {"horizons": horizons, "normalize": self.normalize, **rows}
        return self.settled.flat() | {f"evaluate.{key}": value for key, value in own.items()}


@dataclass(frozen=True)
class Progress:
    """Whom the job tells how far it is: rows read, epochs trained, windows replayed."""

    rows: Callable[[int], None] = lambda rows: None
    epoch: Callable[[Epoch], None] = lambda epoch: None
    windows: Callable[[int], None] = lambda windows: None


@compute_threads(1)
def run_rolling(job: RollingJob, progress: Progress | None = None) -> Evaluated:
    """Trains on the first rows of the job's files, replays all of them, and keeps what came out in MLflow.

    Raises:
        StatecastError: a file, a setting or the store is at fault; one line.
    """
    progress, config = progress or Progress(), job.settled
    registry = open_registry(config.mlflow)
    tables = read_tables(config.covariates)
    loaded = load_observations(config, progress.rows)
    found = aggregate(loaded.rows, config.windows)
    windows, split = _parted(job, found.windows)
    tags = {"statecast.cell": config.network.cell, "statecast.job": "evaluate"}
    with registry.start_run(job.name, job.params(), tags) as run:

        def log(epoch: Epoch) -> None:
            run.log_epoch(epoch)
            progress.epoch(epoch)

        run.log_dataset(loaded.rows, "observations", config.data.paths[0], "evaluation")
        began_s = time.monotonic()
        learned_from = windows.rows(0, split.train_rows)
        trained = train(
            learned_from, config.network, config.training, config.windows, log, config.online, tables
        )
        trained_s = time.monotonic()
        fans = FanSample(windows, split, config.windows.frequency)
        tallies = _replayed(trained.forecaster, windows, split, fans, progress.windows)
        replayed_s = time.monotonic()
        unit = training_scale(windows, split.train_rows, config.windows)
        scores, coverage_by_series = scored(tallies, job.horizons, unit, windows.series_ids)
        by_step = by_step_of(tallies, unit)
        evaluated = Evaluated(
            scores,
            coverage_by_series,
            by_step,
            [
                *figures_of(tallies, by_step, fans),
                ("Training and validation loss by epoch.", partial(plots.loss_figure, trained.history)),
            ],
            trained_s - began_s,
            replayed_s - trained_s,
            len(windows.series_ids),
            len(windows.values),
            split,
            trained.forecaster.version,
            run.run_id,
            (
                *loaded.notices,
                *loaded.skipped,
                *_notices(loaded, windows, split, config.windows),
                *replaced.notice(len(found.replaced), "in the input, where they stay"),
            ),
        )
        log_into(run, evaluated)
    return replace(evaluated, notices=(*evaluated.notices, *run.notices))


def _replayed(
    forecaster: Forecaster, windows: Windows, split: Split, fans: FanSample, on_windows: Callable[[int], None]
) -> dict[str, Tally]:
    """How each member erred in the rows to be judged; ``fans`` gets what it said there."""
    tallies: dict[str, Tally] = {}
    for block in rolled(forecaster, windows, split, on_windows):
        tally(tallies, block)
        fans.add(block)
    return tallies


def prepared(job: RollingJob, rows: pl.DataFrame) -> tuple[Windows, Split]:
    """The history as the job judges it, and which rows are what.

    Raises:
        ConfigError: the rows that are asked for cannot be.
        DataError: the history is shorter than that.
    """
    return _parted(job, aggregate(rows, job.settled.windows).windows)


def _parted(job: RollingJob, windows: Windows) -> tuple[Windows, Split]:
    """`prepared` for rows that are windows already."""
    config = job.settled
    length = len(windows.values)
    if job.train_rows >= length:
        raise DataError(
            f"{config.data.paths[0]}: holds {length:,} windows of {config.windows.freq}, and the first "
            f"{job.train_rows:,} are to be learned from, which leaves none to judge: give fewer"
        )
    first = job.train_rows if job.first is None else job.first
    stop = length if job.stop is None else job.stop
    if stop > length:
        raise DataError(
            f"{config.data.paths[0]}: holds {length:,} windows of {config.windows.freq}, and the test rows "
            f"are to end at {stop:,}: let them end earlier"
        )
    split = Split(job.train_rows, first, stop, max(job.horizons))
    if job.normalize == "train":
        windows = normalised(windows, job.train_rows, config.windows)
    return windows, split


def _notices(loaded: Loaded, windows: Windows, split: Split, config: WindowConfig) -> list[str]:
    lines = window_notices(windows.filled, config)
    if len(loaded.quarantined):
        first = loaded.quarantined.row(0, named=True)
        lines.append(
            f"{len(loaded.quarantined):,} rows were left out, the first: {first['file']}, row "
            f"{first['row']}: {first['reason']}"
        )
    without = np.isnan(windows.values[: split.train_rows]).all(axis=0)
    if without.any():
        name = windows.series_ids[int(without.argmax())]
        lines.append(
            f"{int(without.sum()):,} series have no value in the training rows and are not judged, such as "
            f"{name}"
        )
    return lines
