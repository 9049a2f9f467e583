"""The command ``statecast evaluate``: a rolling evaluation, or the evaluation of existing forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.cli import options as o
from pipelines.cli.console import Out, show_scores
from pipelines.cli.settings import bounds, input_files, load_settings, parse_whole_numbers, paths
from pipelines.cli.stores import store_line
from pipelines.storage import check_folder, location
from schemas.errors import ConfigError
from schemas.numbers_as_text import text_of

if TYPE_CHECKING:
    from forecaster.reports.html import Table as ReportTable
    from pipelines.jobs.rolling import RollingJob
    from pipelines.settings.config import JobConfig

ROLLING, FOLDERS = "Rolling evaluation", "Existing forecasts"


def evaluate(
    data: o.Data = None,
    more_data: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--data",
            metavar="FILE",
            help="File or folder to read in addition to DATA; can be given more than once.",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    wide: o.Wide = False,
    freq: o.Freq = None,
    skip_bad_files: o.SkipBad = None,
    train_rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="Train on the first N windows only, then replay all of DATA and evaluate every member.",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    test_rows: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="A:B",
            help="Evaluate the forecasts whose target windows are all in [A, B), counted from 0.",
            show_default="all windows after the training rows",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    test_from: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="A",
            help="Evaluate from window A to the end, as --test-rows A: does.",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    horizons: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="H,H,...",
            help="Horizons to evaluate; the network forecasts up to the largest. Errors at H are means over "
            "the steps 1 to H; coverage_90 and width_90 are of step H only.",
            show_default="1 and network.horizon",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    normalize: Annotated[
        Optional[Literal["none", "train"]],  # noqa: UP045
        typer.Option(
            help="train scales each series to mean 0 and standard deviation 1 on its training rows, so that "
            "errors can be compared across series; none leaves the values unchanged.",
            show_default="none",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    quantiles: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="Q,Q,...",
            help="Quantile levels to forecast; msis scores the interval of the outermost two.",
            show_default="network.quantiles, with 0.05 and 0.95",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the MLflow run.",
            show_default="evaluation",
            rich_help_panel=ROLLING,
        ),
    ] = None,
    tracking_uri: o.Store = None,
    forecasts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--forecasts",
            "-f",
            metavar="FOLDER",
            help="Output folder of a backfill or stream to evaluate; can be given more than once.",
            show_default="output.folder of the job file, out",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    train_end: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TIME",
            help="Divide errors by each series' scale (MASE), which is computed from rows before this time.",
            show_default="the first forecast, or the end of the training rows",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            parser=o.local_path,
            metavar="FILE",
            help="Write an HTML report with plots of forecasts and actuals to this file.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print only JSON on stdout: one object; a rolling evaluation first prints a line for each "
            "member and horizon.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = False,
    config: o.Config = None,
    settings: o.Set = None,
) -> None:
    """Evaluate a forecaster on a file by rolling origin, or compare existing forecasts with the actuals.

    With --train-rows, the command trains on the first rows of DATA only, replays all rows window by window as
    a stream does, and evaluates the forecasts for the test rows. Every member is evaluated on the same pairs
    of forecast and actual: the combination, the network alone, each expert, persistence and seasonal naive.
    Tables, plots and metrics are logged to an MLflow run.

    Without --train-rows, the command compares the forecasts in folders with the actuals, by horizon, beside
    persistence and seasonal naive. DATA must hold the actuals and enough rows before them. Its rows must
    become the same windows as in training, so pass the job file of the training (-c), or --freq and --set
    windows.aggregate=... if they were changed.

    Example: statecast evaluate etth2.csv --wide --freq 1h --horizons 1,24,48 --train-rows 2880
    --test-rows 3600:14400 --normalize train --report report.html

    Example: statecast evaluate weather.parquet --forecasts out --report report.html
    """
    rolling = {
        "--test-rows": test_rows, "--test-from": test_from, "--horizons": horizons, "--normalize": normalize,
        "--quantiles": quantiles, "--name": name,
    }  # fmt: skip
    folders = {"--forecasts": forecasts, "--train-end": train_end}
    _check_form(train_rows, rolling, folders)
    steps = None if horizons is None else parse_whole_numbers("--horizons", horizons)
    job = load_settings(
        config, settings, data__paths=paths([*(data or []), *(more_data or [])]),
        data__layout="wide" if wide else None, data__skip_bad_files=skip_bad_files, windows__freq=freq,
        network__horizon=max(steps) if steps else None,
        network__quantiles=None if quantiles is None else f"[{quantiles}]",
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    out = Out(as_json)
    if report is not None:
        check_folder(report.parent)
    if train_rows is None:
        input_files(job)
        _evaluate_folders(job, forecasts, train_end, report, out)
        return
    if test_rows is not None and test_from is not None:
        raise ConfigError("--test-from and --test-rows both set the test rows: give one of them")
    first, stop = bounds("--test-rows", test_rows) if test_rows is not None else (test_from, None)
    from pipelines.cli.preflight import check_store

    check_store(job.mlflow)
    input_files(job)
    with out.progress("loading torch and MLflow", "packages"):
        from pipelines.jobs.rolling import RollingJob

    rolling_job = RollingJob(
        job, steps or tuple(sorted({1, job.network.horizon})), train_rows, first, stop,
        normalize or "none", name or "evaluation",
    )  # fmt: skip
    _evaluate_rolling(rolling_job, report, out)


def _check_form(train_rows: int | None, rolling: Mapping[str, object], folders: Mapping[str, object]) -> None:
    """Refuse options that have no effect on this kind of evaluation.

    Args:
        train_rows: value of --train-rows, which requests a rolling evaluation.
        rolling: values of the options of a rolling evaluation; None if an option is not given.
        folders: values of the options of an evaluation of existing forecasts.

    Raises:
        ConfigError: an option of the other kind of evaluation is given.
    """
    others = rolling if train_rows is None else folders
    wrong = [option for option, value in others.items() if value is not None]
    if not wrong:
        return
    if train_rows is None:
        raise ConfigError(f"{wrong[0]} is for a rolling evaluation: give --train-rows, too")
    raise ConfigError(
        f"{wrong[0]} is for existing forecasts and has no effect with --train-rows: leave one of them out"
    )


def _evaluate_rolling(job: RollingJob, report: Path | None, out: Out) -> None:
    from forecaster.training.train import loss_of
    from pipelines.cli.sweep import max_epochs
    from pipelines.jobs.rolling import Progress, run_rolling
    from pipelines.jobs.rolling_scores import member_table, write_rolling

    with (
        out.progress("reading", "rows") as rows,
        out.progress("training", "epochs", max_epochs(job.config)) as epochs,
        out.progress("replaying", "windows") as windows,
    ):
        progress = Progress(
            rows.add,
            lambda epoch: epochs.add(1, f"loss {loss_of(epoch):.4f}"),
            windows.add,
        )
        evaluated = run_rolling(job, progress)
    for line in evaluated.notices:
        out.notice(line)
    split = evaluated.split
    out.say(
        f"{evaluated.series:,} series of {evaluated.rows:,} windows: trained on the first "
        f"{split.train_rows:,} in {evaluated.train_s:.0f} s, replayed in {evaluated.replay_s:.0f} s, "
        f"evaluated on {split.first:,} to {split.stop:,}"
    )
    for horizon in job.horizons:
        table = member_table(evaluated.scores, horizon)
        out.say(
            f"horizon {horizon}: errors over the steps 1 to {horizon}, the interval at step {horizon}", "bold"
        )
        out.console.print(_shown(table))
    out.say(store_line(job.config.mlflow))
    out.say(f"run {evaluated.run_id}: statecast ui --tracking-uri {job.config.mlflow.tracking_uri}")
    if report is not None:
        facts = {"data": ", ".join(Path(path).name for path in job.config.data.paths)}
        out.say(f"report: {write_rolling(evaluated, report, facts)}")
    for row in evaluated.lines():
        out.result(row)
    out.result(evaluated.as_json())


def _shown(table: ReportTable) -> Table:
    """Return a report's table for the terminal, with the best number of each column in bold."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in table.head:
        # Shorten the names, so that nine columns fit a terminal of 80 characters.
        short = {"coverage_90": "in\n90 %", "width_90": "width\n90 %"}.get(name, name)
        is_first = name == table.head[0]
        shown.add_column(
            short, justify="left" if is_first else "right", no_wrap=not is_first, overflow="fold"
        )
    for i, (name, numbers) in enumerate(table.rows):
        texts = ["" if number is None else text_of(number) for number in numbers]
        marked = [f"[bold green]{t}[/]" if (i, k) in table.best else t for k, t in enumerate(texts)]
        shown.add_row(name, *marked)
    return shown


def _evaluate_folders(
    job: JobConfig, forecasts: list[str] | None, train_end: str | None, report: Path | None, out: Out
) -> None:
    from pipelines.jobs.evaluate import evaluate_folders, write_evaluation

    with out.progress("reading", "rows") as bar:
        folders = [location(folder) for folder in forecasts or [job.output.folder]]
        judged = evaluate_folders(job, folders, train_end, bar.add)
    for line in judged.notices:
        out.notice(line)
    show_scores(out, judged.scores, f"mean absolute error by horizon, {judged.unit}:")
    if report is not None:
        out.say(f"report: {write_evaluation(judged, report)}")
    out.result(
        {
            "unit": judged.unit,
            "report": None if report is None else str(report),
            "scores": judged.scores.to_dicts(),
        }
    )
