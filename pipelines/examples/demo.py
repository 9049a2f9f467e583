"""The demo: train three networks on real weather, backfill, stream, and compare their forecasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from forecaster.registry.registry import Registry
from forecaster.training.epochs import Epoch
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

CELLS = ("lstm", "gru", "rnn")
MODEL = "weather"
TRAIN_END, STREAM_START = datetime(2013, 9, 1, tzinfo=UTC), datetime(2013, 11, 1, tzinfo=UTC)
WINDOWS_PER_S = 16


class Show(Protocol):
    """Shows the phases of the demo: `training` and `job` begin a phase, and `done` ends it."""

    def training(self, cell: str, epochs: int) -> Callable[[Epoch], None]:
        """Show that the training of a network begins; return the function that is called after each epoch."""

    def job(self, what: str) -> Progress:
        """Show that a backfill or a stream begins; return the function that takes its numbers."""

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


def run_demo(folder: Path, show: Show, runner: Runner) -> DemoOutcome:
    """Train on January to August, backfill September and October, and stream November and December.

    Args:
        folder: folder that all files are written to.
        show: shows the progress.
        runner: engine of the streams.

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
        streams[cell] = _forecast(job, str(fits[cell].version), str(data), folder / cell, show, runner)
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
            "mlflow.tracking_uri": uri,
            "mlflow.experiment": "demo",
            "mlflow.model": MODEL,
            # Use one shard, because each shard calls the network once per window, even for few series.
            "jobs.shards": 1,
        },
    )


def _within(job: JobConfig, **bounds: datetime) -> JobConfig:
    """Return a copy of the job that reads only the rows from ``start`` on and before ``end``."""
    return job.model_copy(update={"data": job.data.model_copy(update=bounds)})


def _forecast(job: JobConfig, version: str, data: str, folder: Path, show: Show, runner: Runner) -> Outcome:
    """Backfill September and October, then stream November and December from the backfill's state."""
    forecaster = Registry(job.mlflow.tracking_uri, job.mlflow.experiment).load(version)
    autumn = input_of(_within(job, start=TRAIN_END, end=STREAM_START))
    winter = input_of(_within(job, start=STREAM_START))
    backfill = BackfillJob(forecaster, (data,), autumn, folder / "backfill", job.jobs.shards)
    show.done(run_backfill(backfill, show.job("backfill of September and October")))
    freq = forecaster.window_config.frequency
    # Replay at a set speed for the first network, because a replay at full speed measures no latency.
    speed = float(freq.nominal_s * WINDOWS_PER_S) if job.network.cell == CELLS[0] else 0.0
    output = folder / "stream"
    source = ReplaySource((data,), winter, freq, speed=speed, manifest_folder=output / state_table.FOLDER)
    stream = StreamJob(
        forecaster, source, output, job.jobs.shards, state_table=backfill.states, runner=runner
    )
    outcome = run_stream(stream, show.job("stream of November and December"))
    show.done(outcome)
    return outcome
