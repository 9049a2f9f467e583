"""Run the demo: train three networks on real weather, backfill, stream, and compare their forecasts.

The LSTM is trained first, so that its forecasts appear within a minute. While its stream runs, the GRU and
the RNN are trained in other processes.
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
from pipelines.examples.background import background_trainings
from pipelines.jobs.backtest_log import log_comparison
from pipelines.jobs.evaluate import FolderEvaluation, evaluate_folders, write_evaluation
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Outcome, Runner, StreamJob
from pipelines.jobs.progress import Progress
from pipelines.jobs.run_once import OnNumbers
from pipelines.jobs.train import TrainOutcome, run_training
from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import load_config
from pipelines.sources.files.validated_rows import input_of
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location

CELLS = ("lstm", "gru", "rnn")
EPOCHS = 6
"""Epochs of each training. Twice as many, and a second training on all windows, lower the errors by 2 %."""

MODEL, SHOWN_SERIES = "weather", "EWR.temp"
TRAIN_END, STREAM_START = datetime(2013, 9, 1, tzinfo=UTC), datetime(2013, 12, 17, tzinfo=UTC)
TEST_FROM = datetime(2013, 11, 1, tzinfo=UTC)
"""Issue time of the first forecasts that are scored, of the backfill and of the stream."""

WINDOWS_PER_S = 16  # with this speed, the LSTM's stream of 360 hours takes 22 s
_FANS = 3
_FOR_TRAINING = {"data.end": TRAIN_END}


class Show(Protocol):
    """Shows the progress of the demo: ``training`` and ``job`` begin a phase, ``done`` ends it."""

    def training(self, cell: str, epochs: int) -> Callable[[Epoch], None]:
        """Show that the training of a network begins; return the function that is called after each epoch."""

    def waiting(self, cell: str) -> None:
        """Show that the demo now waits until another process has ended a training."""

    def job(self, what: str) -> OnNumbers:
        """Show that a backfill or a stream begins; return the function to call with the job's numbers."""

    def forecasts(self, series_id: str, frame: pl.DataFrame) -> None:
        """Show the newest forecasts of a series (see `forecaster.reports.fan_plot.fan_figure`)."""

    def done(self, outcome: Outcome | TrainOutcome) -> None:
        """Show that the current phase of the demo has ended, with its outcome."""


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
    """Train on January to August, backfill until mid-December, and stream the rest of December.

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
    jobs = {cell: _job(data, uri, cell) for cell in CELLS}
    registry = Registry(uri, jobs[CELLS[0]].mlflow.experiment)
    streams: dict[str, Outcome] = {}

    def backfill(cell: str, version: str) -> tuple[Forecaster, Location]:
        forecaster = registry.load(version)
        return forecaster, _backfill(jobs[cell], forecaster, folder / cell / "backfill", show)

    first, *others = CELLS
    progress = Progress(epoch=show.training(first, EPOCHS))
    fit = run_training(jobs[first].with_settings(_FOR_TRAINING), first, progress)
    show.done(fit)
    run_ids, networks = {first: fit.run_id}, [fit.version.model_version]
    forecaster, states = backfill(first, str(fit.version))
    show.forecasts(SHOWN_SERIES, SeriesFans(folder / first / "backfill").read(SHOWN_SERIES, _FANS))
    with background_trainings(
        {cell: jobs[cell].with_settings(_FOR_TRAINING) for cell in others}, folder
    ) as started:
        runner = choose_runner()
        streams[first] = _stream(jobs[first], forecaster, states, folder / first / "stream", show, runner)
        for cell, training in started.items():
            show.waiting(cell)
            found = training.result()
            run_ids[cell] = found.run_id
            networks.append(found.model_version)
            forecaster, states = backfill(cell, found.version)
            streams[cell] = _stream(jobs[cell], forecaster, states, folder / cell / "stream", show, runner)
    evaluation = evaluate_folders(
        jobs[first],
        [folder / cell / part for cell in CELLS for part in ("backfill", "stream")],
        TRAIN_END.date().isoformat(),
        issued_from=TEST_FROM,
    )
    report = _write_report(evaluation, streams[first], networks, folder / "report.html", uri)
    _log_test(registry, evaluation, run_ids, report)
    return DemoOutcome(evaluation, streams, uri, report, folder)


def _write_report(
    evaluation: FolderEvaluation, stream: Outcome, networks: list[str], file: Path, uri: str
) -> Path:
    """Write the report on the evaluation, with the latency of ``stream``, and return the report's path."""
    p50, p99 = (stream.latency_ms(level) for level in (0.5, 0.99))
    return write_evaluation(
        evaluation,
        file,
        facts={
            "trained on": "January to August 2013",
            "scored": "forecasts of November and December 2013",
            "streamed": "the last 15 days of December 2013",
            "networks": ", ".join(networks),
            f"latency of the {CELLS[0]} stream": f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms",
        },
        latency_ms=stream.numbers.window_latency.values_ms(),
        notes=[f"Runs, metrics and plots: statecast ui --tracking-uri {uri}"],
    )


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
            # Do not refit on all windows, because a refit would double the time of the training.
            "training.refit": False,
            "mlflow.tracking_uri": uri,
            "mlflow.experiment": "demo",
            "mlflow.model": MODEL,
            # Use one shard, because each shard calls the network once per window, even for few series.
            "jobs.shards": 1,
        },
    )


def _backfill(job: JobConfig, forecaster: Forecaster, output: Path, show: Show) -> Location:
    """Backfill September to mid-December, and return the state table."""
    past = input_of(job.with_settings({"data.start": TRAIN_END, "data.end": STREAM_START}))
    backfill = BackfillJob(forecaster, job.data.paths, past, output, job.jobs.shards)
    show.done(run_backfill(backfill, show.job("backfill of September to mid-December")))
    return backfill.states


def _stream(
    job: JobConfig, forecaster: Forecaster, states: Location, output: Path, show: Show, runner: Runner
) -> Outcome:
    """Run a stream over the last two weeks of December; it starts from the state table of a backfill."""
    freq, rest = forecaster.window_config.frequency, input_of(job.with_settings({"data.start": STREAM_START}))
    # Replay the first stream at a set speed, because a replay at full speed measures no latency.
    speed = float(freq.nominal_s * WINDOWS_PER_S) if job.network.cell == CELLS[0] else 0.0
    manifests = output / state_table.FOLDER
    source = ReplaySource(job.data.paths, rest, freq, speed=speed, manifest_folder=manifests)
    stream = StreamJob(forecaster, source, output, job.jobs.shards, state_table=states, runner=runner)
    outcome = run_stream(stream, show.job("stream of the last two weeks of December"))
    show.done(outcome)
    return outcome
