"""Run the sweep of ``statecast train --sweep`` and show its progress and its trials."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress, max_epochs

if TYPE_CHECKING:
    from pipelines.jobs.sweep import SweepOutcome
    from pipelines.jobs.trials import Trial
    from pipelines.settings.config import JobConfig
    from pipelines.storage import Location


def run_sweep_command(
    job: JobConfig, name: str, trials: int, table: Location | None, out: Out
) -> SweepOutcome:
    """Run a sweep, train with the best settings, and print a table of the trials.

    After Ctrl-C, a notice names the best trial so far.

    Args:
        job: settings of the training; they are the first trial.
        name: name of the MLflow run.
        trials: number of trials.
        table: folder in which the state table of the trained model is written; None writes no table.
        out: output of the command.
    """
    with out.loading("optuna"):
        from pipelines.jobs.sweep import run_sweep
        from pipelines.jobs.trials import best_of
    ended: list[Trial] = []
    try:
        with (
            out.progress("sweep", "trials", trials) as trials_done,
            job_progress(out, "training the best", max_epochs(job)) as progress,
        ):

            def on_trial(trial: Trial) -> None:
                ended.append(trial)
                trials_done.add(1, _trial_text(best_of(ended)))

            swept = run_sweep(job, name, trials, replace(progress, trial=on_trial), table)
    except KeyboardInterrupt:
        if ended:
            best = _trial_text(best_of(ended))
            out.notice(f"{len(ended)} of {trials} trials ended and are in MLflow; the best: {best}")
        raise
    out.say("trials by skill, on held-out windows: 1 - pinball loss / pinball loss of persistence")
    out.console.print(_table(swept, job))
    out.say(f"trained with {_trial_text(swept.best)}")
    return swept


def _trial_text(best: Trial | None) -> str:
    """Return a trial's number, its skill, and the options that set its settings, as text."""
    if best is None:
        return "none finished"
    settings = " ".join(f"-s {name}={_value_text(value)}" for name, value in best.settings.items())
    return f"trial {best.number}, skill {best.skill:.4f}: {settings or 'the settings of the job'}"


def _table(swept: SweepOutcome, job: JobConfig) -> Table:
    from pipelines.jobs.trials import trials_frame

    table = Table("trial", "", "skill", "settings")
    for row in trials_frame(list(swept.trials), job).to_dicts():
        number, ended, skill = (_value_text(row.pop(name)) for name in ("trial", "ended", "skill"))
        tried = {
            name.partition(".")[2]: value for name, value in row.items() if "." in name and value is not None
        }
        settings = ", ".join(f"{name} {_value_text(value)}" for name, value in tried.items())
        style = "bold green" if number == str(swept.best.number) else None
        table.add_row(number, ended, skill, settings or "the settings of the job", style=style)
    return table


def _value_text(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
