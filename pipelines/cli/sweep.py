"""``statecast train --sweep``: what is shown of a search for settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from forecaster.training.train import loss_of
from pipelines.cli.console import Out

if TYPE_CHECKING:
    from pipelines.jobs.sweep import SweepOutcome, Trial
    from pipelines.settings.config import JobConfig
    from pipelines.storage import Location


def most_epochs(job: JobConfig) -> int:
    """Epochs of both phases of a training, at the most."""
    return job.training.epochs * (2 if job.training.refit else 1)


def searched(job: JobConfig, name: str, trials: int, table: Location | None, out: Out) -> SweepOutcome:
    """Runs a sweep with a bar for its trials, then one for the training of the best, and shows the table.

    Interrupted, it says which trial is the best so far.
    """
    with out.progress("loading optuna", "packages"):
        from pipelines.jobs.sweep import Progress, best_of, run_sweep
    ended: list[Trial] = []
    try:
        with (
            out.progress("reading", "rows") as rows,
            out.progress("sweep", "trials", trials) as trials_done,
            out.progress("training the best", "epochs", most_epochs(job)) as epochs_done,
        ):

            def tell(trial: Trial) -> None:
                ended.append(trial)
                trials_done.add(1, _said(best_of(ended)))

            progress = Progress(
                rows.add, tell, lambda epoch: epochs_done.add(1, f"loss {loss_of(epoch):.4f}")
            )
            swept = run_sweep(job, name, trials, progress, table)
    except KeyboardInterrupt:
        if ended:
            out.notice(f"{len(ended)} of {trials} trials ended and are in MLflow; {_said(best_of(ended))}")
        raise
    out.say("trials by skill: 1 minus the pinball loss over that of persistence, on held-out windows:")
    out.console.print(_table(swept))
    out.say(f"trained with {_said(swept.best)}")
    return swept


def _said(best: Trial | None) -> str:
    """The best trial, and the options that give its settings."""
    if best is None:
        return "none finished"
    settings = " ".join(f"-s {name}={_short(value)}" for name, value in best.settings.items())
    return f"trial {best.number}, skill {best.skill:.4f}: {settings or 'the job as it stands'}"


def _table(swept: SweepOutcome) -> Table:
    from pipelines.jobs.sweep import trials_frame

    table = Table("trial", "", "skill", "settings")
    for row in trials_frame(list(swept.trials)).to_dicts():
        number, ended, skill = (_short(row.pop(name)) for name in ("trial", "ended", "skill"))
        tried = {
            name.partition(".")[2]: value for name, value in row.items() if "." in name and value is not None
        }
        settings = ", ".join(f"{name} {_short(value)}" for name, value in tried.items())
        style = "bold green" if number == str(swept.best.number) else None
        table.add_row(number, ended, skill, settings or "the job as it stands", style=style)
    return table


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
