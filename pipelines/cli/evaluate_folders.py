"""The part of ``statecast evaluate`` that scores the existing forecasts in output folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.console import Out, show_scores
from pipelines.cli.stores import store_line
from pipelines.storage import location

if TYPE_CHECKING:
    from pipelines.settings.config import JobConfig


def evaluate_existing(
    job: JobConfig, forecasts: list[str] | None, train_end: str | None, report: Path | None, out: Out
) -> None:
    """Score the forecasts in output folders; print the scores, and log them in a run for each model version.

    Args:
        job: settings of the job; its data hold the actuals.
        forecasts: output folders of backfills or streams; None takes the output folder of the job.
        train_end: the time before which rows give the scale of each series; None takes the default.
        report: file of the HTML report; None writes none.
        out: output of the command.
    """
    from pipelines.cli.preflight import check_store

    check_store(job.mlflow)
    from pipelines.jobs.evaluate import evaluate_folders, write_evaluation
    from pipelines.jobs.evaluate_log import log_evaluations

    with out.progress("reading", "rows") as bar:
        folders = [location(folder) for folder in forecasts or [job.output.folder]]
        evaluation = evaluate_folders(job, folders, train_end, bar.add)
    for line in evaluation.notices:
        out.notice(line)
    show_scores(out, evaluation.scores, f"mean absolute error by horizon, {evaluation.unit}:")
    if report is not None:
        out.say(f"report: {write_evaluation(evaluation, report)}")
    runs = log_evaluations(job, evaluation)
    out.say(store_line(job.mlflow))
    for version, run_id in runs.items():
        out.say(f"run {run_id}: evaluation of {version}")
    out.result(
        {
            "unit": evaluation.unit,
            "runs": runs,
            "report": None if report is None else str(report),
            "scores": evaluation.scores.to_dicts(),
        }
    )
