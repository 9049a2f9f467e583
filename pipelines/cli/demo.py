"""The command ``statecast demo``, which runs the whole pipeline on example data."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, show_outcome, show_scores, silence_workers
from pipelines.cli.live_view import show_live
from pipelines.storage import store_of
from schemas.errors import OutputError, StatecastError

if TYPE_CHECKING:
    import polars as pl

    from pipelines.examples.demo import DemoOutcome
    from pipelines.jobs.job import Outcome, Runner
    from pipelines.jobs.train import TrainOutcome
    from pipelines.sinks.numbers import JobNumbers


def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=o.local_path,
            metavar="FOLDER",
            help="Folder that the demo writes all its files to.",
        ),
    ] = Path("demo-out"),
    as_json: o.Json = False,
) -> None:
    """Train, backfill, stream and compare forecasts on a year of real weather, in about three minutes.

    Trains an LSTM on eight months of hourly weather of three airports (18 series with gaps), backfills the
    months until mid-December, draws the first forecasts within a minute, and starts a stream from that state,
    which replays the last two weeks. A GRU and an RNN are trained meanwhile and do the same. The errors of
    all three are compared with persistence and seasonal naive. Nothing is downloaded.
    """
    out = Out(as_json)
    store_of(output).check_writable()
    marker = output / ".statecast-demo"
    if output.exists() and any(output.iterdir()):
        if not marker.exists():
            raise OutputError(
                f"{output} is not empty, and no demo wrote it: name another folder with --output"
            )
        shutil.rmtree(output)
    store_of(output).prepare()
    marker.touch()
    out.say("loading torch, Beam and MLflow ...")
    from pipelines.examples.demo import CELLS, run_demo

    with ExitStack() as phases:
        ended = run_demo(output, _DemoProgress(out, phases), partial(_choose_runner, out))
    out.say("")
    show_scores(
        out,
        ended.evaluation.scores,
        f"November and December: mean absolute error by horizon, {ended.evaluation.unit}:",
    )
    stream = ended.streams[CELLS[0]]
    p50, p99 = (stream.latency_ms(level) for level in (0.5, 0.99))
    out.say(
        f"latency of the {CELLS[0]} stream, from row to forecast file: p50 {p50:,.0f} ms, p99 {p99:,.0f} ms"
    )
    _show_next(out, ended)
    out.result(
        {
            "report": str(ended.report),
            "tracking_uri": ended.tracking_uri,
            "scores": ended.evaluation.scores.to_dicts(),
            "streams": {cell: outcome.as_json() for cell, outcome in ended.streams.items()},
        }
    )
    if any(outcome.counts.missing for outcome in ended.streams.values()):
        raise StatecastError("some rows were read and not accounted for: please report this")


def _choose_runner(out: Out) -> Runner:
    """Return the runner of the streams, and print it; in process, also print why.

    On an engine, discard the stack traces of Beam's worker threads, as `silence_workers` describes.
    """
    from pipelines.cli.engine import choose_engine
    from pipelines.settings.config import JobsConfig

    engine, why = choose_engine(JobsConfig())
    out.say(f"\nstreams run {why}")
    if engine != "in-process":
        silence_workers()
    return engine


def _show_next(out: Out, ended: DemoOutcome) -> None:
    """Print the report's path, commands that show the results, and three commands for the user's file."""
    from pipelines.examples.demo import CELLS, SHOWN_SERIES

    stream = f"{ended.folder}/{CELLS[0]}/stream"
    out.say("")
    out.say(f"report with pictures:  {ended.report}")
    out.say(f"compare the runs:      statecast ui --tracking-uri {ended.tracking_uri}")
    out.say(f"look at the stream:    statecast dashboard {stream}")
    out.say(f"draw forecasts:        statecast plot {stream} --series {SHOWN_SERIES} -o {SHOWN_SERIES}.png")
    out.say("\nThree things to try with your own file (columns series_id, timestamp, value):", "bold")
    out.say("  1. forecast all its series:      statecast forecast FILE -o forecast.csv")
    out.say("  2. train and keep a model:       statecast train FILE --register mine --save-state states")
    out.say("  3. forecast rows as they arrive: statecast stream FOLDER --watch --model mine --state states")
    if shutil.which("statecast") is None:
        out.say(f"first, in this shell:            source {Path(sys.prefix) / 'bin' / 'activate'}")


class _DemoProgress:
    """Show the phases of the demo on the terminal; see `pipelines.examples.demo.Show`."""

    def __init__(self, out: Out, phases: ExitStack) -> None:
        self.out, self.phases = out, phases

    def training(self, cell: str, epochs: int) -> Callable[[Any], None]:
        """Print that a training begins; return a function that advances its progress bar by one epoch."""
        self.out.say(f"\n{cell}: training on January to August", "bold")
        bar = self._open_bar("training", "epochs", epochs)
        from forecaster.training.train import loss_of

        return lambda epoch: bar.add(1, f"loss {loss_of(epoch):.4f}")

    def waiting(self, cell: str) -> None:
        """Announce that the demo waits for a training in another process."""
        self.out.say(f"\n{cell}: waiting for its training, which began with the stream", "bold")

    def job(self, what: str) -> Callable[[JobNumbers], None]:
        """Announce a backfill or a stream, and return a function that shows its numbers while it runs."""
        self.out.say(what, "bold")
        return self.phases.enter_context(show_live(self.out, what.split()[0]))

    def forecasts(self, series_id: str, frame: pl.DataFrame) -> None:
        """Draw the newest forecasts of a series."""
        from pipelines.cli.terminal_plot import fan_plot

        plot = fan_plot(frame, f"first forecasts: {series_id}", self.out.console.width)
        self.out.console.print(plot, markup=False, highlight=False)

    def done(self, outcome: Outcome | TrainOutcome) -> None:
        """Close the progress bar of the phase, and print its outcome."""
        self.phases.close()
        from pipelines.jobs.train import TrainOutcome

        if isinstance(outcome, TrainOutcome):
            self.out.say(
                f"{len(outcome.history)} epochs in {outcome.seconds:.0f} s: {outcome.version}, "
                f"run {outcome.run_id}"
            )
        else:
            show_outcome(outcome, self.out)

    def _open_bar(self, what: str, unit: str, total: int) -> Any:
        return self.phases.enter_context(self.out.progress(what, unit, total))
