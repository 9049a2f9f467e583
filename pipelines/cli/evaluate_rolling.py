"""The rolling evaluation of ``statecast evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress, max_epochs
from pipelines.cli.settings import input_files
from pipelines.cli.stores import store_line, ui_line
from schemas.numbers_as_text import text_of

if TYPE_CHECKING:
    from forecaster.reports.html import ReportTable
    from pipelines.jobs.rolling import RollingJob
    from pipelines.jobs.rolling_scores import Evaluated
    from pipelines.settings.config import JobConfig


def evaluate_rolling(
    config: JobConfig,
    horizons: tuple[int, ...],
    train_rows: int,
    test: tuple[int | None, int | None],
    normalize: Literal["none", "train"],
    name: str,
    report: Path | None,
    out: Out,
) -> None:
    """Run a rolling evaluation, and print the scores of every member.

    Args:
        config: settings of the job.
        horizons: horizons that are scored.
        train_rows: number of rows at the beginning, on which the network is trained.
        test: first test row, and one past the last; None takes the default.
        normalize: ``train`` scales each series by its training rows.
        name: name of the MLflow run.
        report: file of the HTML report; None writes none.
        out: output of the command.
    """
    from pipelines.cli.preflight import check_store

    check_store(config.mlflow)
    input_files(config)
    with out.loading("torch and MLflow"):
        from pipelines.jobs.rolling import RollingJob, run_rolling

    job = RollingJob(config, horizons, train_rows, *test, normalize, name)
    with job_progress(out, "training", max_epochs(config), replays=True) as progress:
        evaluated = run_rolling(job, progress)
    _print(evaluated, job, out)
    if report is not None:
        from pipelines.jobs.rolling_scores import write_rolling

        facts = {"data": ", ".join(Path(path).name for path in config.data.paths)}
        out.say(f"report: {write_rolling(evaluated, report, facts)}")
    for row in evaluated.lines():
        out.result(row)
    out.result(evaluated.as_json())


def _print(evaluated: Evaluated, job: RollingJob, out: Out) -> None:
    """Print the notices of a rolling evaluation, its tables of scores, and its MLflow run."""
    from pipelines.jobs.rolling_scores import member_table

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
    out.say(f"run {evaluated.run_id}: {ui_line(job.config.mlflow)}")


def _shown(table: ReportTable) -> Table:
    """Convert a table of the report to a table for the terminal, with the best numbers in bold."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in table.head:
        # shorten the names, so that nine columns fit a terminal of 80 characters
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
