"""The demo: train three networks on real weather, backfill, stream, and compare their forecasts.

The LSTM goes the whole way first, so that its forecasts appear within a minute. The GRU and the RNN follow,
for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import polars as pl

from forecaster.model import Forecaster
from forecaster.registry.registry import Registry
from forecaster.training.epochs import Epoch
from pipelines.dashboard.series_fans import SeriesFans
from pipelines.examples import weather as examples
from pipelines.jobs.backtest_log import log_comparison
from pipelines.jobs.evaluate import FolderEvaluation, evaluate_folders, write_evaluation
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Outcome, Runner, StreamJob
from pipelines.jobs.run_once import Progress
from pipelines.jobs.train import TrainOutcome, run_training
from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import load_config
from pipelines.sources.files.validated_rows import input_of
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location

CELLS = ("lstm", "gru", "rnn")
EPOCHS = 6
"""Epochs of each training; more of them make no difference in the table of errors that the demo prints."""

MODEL, SHOWN_SERIES = "weather", "EWR.temp"
TRAIN_END, STREAM_START = datetime(2013, 9, 1, tzinfo=UTC), datetime(2013, 11, 1, tzinfo=UTC)
WINDOWS_PER_S = 61  # the stream of the LSTM, 1,464 hours, takes 24 s
_FANS = 3


class Show(Protocol):
    """Shows the progress of the demo: ``training`` and ``job`` begin a phase, ``done`` ends it."""

    def training(self, cell: str, epochs: int) -> Callable[[Epoch], None]:
        """Show that the training of a network begins; return the function that is called after each epoch."""

    def job(self, what: str) -> Progress:
        """Show that a backfill or a stream begins; return the function that takes its numbers."""

    def forecasts(self, series_id: str, frame: pl.DataFrame) -> None:
        """Show the newest forecasts of a series (see `forecaster.reports.fan_plot.fan_figure`)."""

    def done(self, outcome: Outcome | TrainOutcome) -> None:
        """Show that the phase has ended, with its outcome."""


@dataclass(frozen=True)
class DemoOutcome:
    """The results of the demo.

    Attributes:
        evaluation: errors of the forecasts for November and December.
        streams: outcome of the stream of each cell.
        tracking_uri: MLflow store of the runs.
        report: path of the HTML report.
        folder: folder of all files of the demo.
    """

    evaluation: FolderEvaluation
    streams: dict[str, Outcome]
    tracking_uri: str
    report: Path
    folder: Path


def run_demo(folder: Path, show: Show, choose_runner: Callable[[], Runner]) -> DemoOutcome:
    """Train on January to August, backfill September and October, and stream November and December.

    Args:
        folder: folder that all files are written to.
        show: shows the progress.
        choose_runner: returns the engine of the streams; called when the first stream begins, because an
            engine may be installed while the demo runs.

    Raises:
        StatecastError: a package is missing, or a file cannot be written; the message is one line.
    """
    data = examples.write_example(MODEL, folder / "data")
    uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    streams: dict[str, Outcome] = {}
    fits: dict[str, TrainOutcome] = {}
    for cell in CELLS:
        job = _job(data, uri, cell)
        fit = _within(job, end=TRAIN_END)
        fits[cell] = run_training(fit, cell, on_epoch=show.training(cell, job.training.epochs))
        show.done(fits[cell])
        forecaster = Registry(uri, job.mlflow.experiment).load(str(fits[cell].version))
        states = _backfill(job, forecaster, folder / cell / "backfill", show)
        if cell == CELLS[0]:
            show.forecasts(SHOWN_SERIES, SeriesFans(folder / cell / "backfill").read(SHOWN_SERIES, _FANS))
            runner = choose_runner()
        streams[cell] = _stream(job, forecaster, states, folder / cell / "stream", show, runner)
    evaluation = evaluate_folders(
        _job(data, uri, CELLS[0]),
        [folder / cell / "stream" for cell in CELLS],
        TRAIN_END.date().isoformat(),
    )
    first = streams[CELLS[0]]
    p50, p99 = (first.latency_ms(level) for level in (0.5, 0.99))
    report = write_evaluation(
        evaluation,
        folder / "report.html",
        facts={
            "trained on": "January to August 2013",
            "streamed": "November and December 2013",
            "networks": ", ".join(fits[cell].version.model_version for cell in CELLS),
            f"latency of the {CELLS[0]} stream": f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms",
        },
        latency_ms=first.numbers.window_latency.values_ms(),
        notes=[f"Runs, metrics and plots: statecast ui --tracking-uri {uri}"],
    )
    _log_test(Registry(uri, "demo"), evaluation, {cell: fit.run_id for cell, fit in fits.items()}, report)
    return DemoOutcome(evaluation, streams, uri, report, folder)


def _log_test(
    registry: Registry, evaluation: FolderEvaluation, run_ids: dict[str, str], report: Path
) -> None:
    """Log the scores of November and December to the MLflow run of each network, as the group ``test``."""
    for cell, run_id in run_ids.items():
        with registry.reopen(run_id) as run:
            log_comparison(run, evaluation.comparisons[cell], "test", evaluation.rows)
            run.log_file(report, "test")


def _job(data: Path, uri: str, cell: str) -> JobConfig:
    return load_config(
        None,
        {
            "data.paths": [str(data)],
            "network.cell": cell,
            "training.epochs": EPOCHS,
            # A second training on all windows would double the time.
            "training.refit": False,
            "mlflow.tracking_uri": uri,
            "mlflow.experiment": "demo",
            "mlflow.model": MODEL,
            # Each shard calls the network once per window, and one call is enough for 18 series.
            "jobs.shards": 1,
        },
    )


def _within(job: JobConfig, **bounds: datetime) -> JobConfig:
    """Return the job limited to the rows from ``start`` on and before ``end``."""
    return job.model_copy(update={"data": job.data.model_copy(update=bounds)})


def _backfill(job: JobConfig, forecaster: Forecaster, output: Path, show: Show) -> Location:
    """Backfill September and October, and return the state table."""
    autumn = input_of(_within(job, start=TRAIN_END, end=STREAM_START))
    backfill = BackfillJob(forecaster, job.data.paths, autumn, output, job.jobs.shards)
    show.done(run_backfill(backfill, show.job("backfill of September and October")))
    return backfill.states


def _stream(
    job: JobConfig, forecaster: Forecaster, states: Location, output: Path, show: Show, runner: Runner
) -> Outcome:
    """Stream November and December from the state table of a backfill."""
    freq, winter = forecaster.window_config.frequency, input_of(_within(job, start=STREAM_START))
    # Pace the stream of the first network, because the latency of an unpaced replay means nothing.
    speed = float(freq.nominal_s * WINDOWS_PER_S) if job.network.cell == CELLS[0] else 0.0
    manifests = output / state_table.FOLDER
    source = ReplaySource(job.data.paths, winter, freq, speed=speed, manifest_folder=manifests)
    stream = StreamJob(forecaster, source, output, job.jobs.shards, state_table=states, runner=runner)
    outcome = run_stream(stream, show.job("stream of November and December"))
    show.done(outcome)
    return outcome
