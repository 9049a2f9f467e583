"""The commands ``statecast promote`` and ``statecast rollback``, which point an alias at a version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.compare import show_comparison
from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress
from pipelines.cli.settings import input_files, load_settings, paths
from pipelines.cli.stores import store_line
from schemas.errors import ConfigError, PromotionRefused

if TYPE_CHECKING:
    from forecaster.registry.registry import Promotion
    from pipelines.jobs.promotion import Gated
    from pipelines.settings.config import JobConfig

Alias = Annotated[str, typer.Option(metavar="ALIAS", help="Alias that is moved.")]


def promote(
    model: Annotated[
        str,
        typer.Argument(
            help="Model version that the alias will point to: NAME/3, or NAME@challenger.", metavar="MODEL"
        ),
    ],
    data: o.Data = None,
    if_better: Annotated[
        bool,
        typer.Option(
            "--if-better",
            help="First compare the version on DATA with the one that the alias points to, and move the "
            "alias only if the version is inside every limit of the section gate of the job file.",
        ),
    ] = False,
    alias: Alias = "champion",
    why: Annotated[str, typer.Option(metavar="TEXT", help="Reason of a promotion without --if-better.")] = "",
    start: o.Start = None,
    end: o.End = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Point the alias champion, or the alias that --alias names, at a model version.

    With --if-better, the command decides by evidence: it compares both versions on recent data (see statecast
    compare), checks the limits of the section gate of the job file, and writes decision, numbers and reasons
    into an MLflow run and into the description of the version. A version that is refused gives one line and
    exit code 7.

    A stream with --follow changes to the version while it runs. Other jobs that load NAME or NAME@champion
    use the version from their next start on, and re-warm state tables that an earlier version wrote. The
    command statecast rollback takes a promotion back.

    Example: statecast promote weather/2

    Example: statecast promote weather@challenger --if-better recent.parquet
    """
    given = {"DATA": data, "--start": start, "--end": end}
    if not if_better and (useless := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"{useless[0]} has no effect without --if-better: add --if-better or remove it")
    if if_better and why:
        raise ConfigError("--why has no effect with --if-better, which writes its own reason: remove it")
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    out = Out(as_json)
    from pipelines.cli.preflight import check_model

    check_model(model, job.mlflow)
    if not if_better:
        from pipelines.jobs.registry import open_registry

        moved = open_registry(job.mlflow).promote(model, alias, why)
        _show_move(out, job, moved)
        out.result(_move_json(moved))
        return
    input_files(job)
    with out.loading("torch and MLflow"):
        from pipelines.jobs.promotion import run_promotion
    with job_progress(out, replays=True) as progress:
        gated = run_promotion(job, model, alias, progress)
    show_comparison(out, gated.compared)
    show_decision(out, job, gated)
    out.result(gated.as_json())
    check_decision(gated)


def show_decision(out: Out, job: JobConfig, gated: Gated) -> None:
    """Print the checks of the gate, and the move of the alias if the version passed them."""
    out.say(f"the gate, for {gated.version} against {gated.compared.refs[0]}:", "bold")
    for check in gated.decision.checks:
        out.say(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.reason}")
    out.say(f"run {gated.compared.run_id}: statecast ui --tracking-uri {job.mlflow.tracking_uri}")
    if gated.promotion is not None:
        _show_move(out, job, gated.promotion)


def check_decision(gated: Gated) -> None:
    """Raise PromotionRefused if a model version has not passed the gate.

    Raises:
        PromotionRefused: the version was refused; the message contains every reason.
    """
    if gated.promotion is None:
        raise PromotionRefused(gated.line)


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the registered model.", metavar="NAME")],
    alias: Alias = "champion",
    why: Annotated[str, typer.Option(metavar="TEXT", help="Reason, for the history of the alias.")] = "",
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Point the alias of a model at the version that it pointed to before.

    The last 20 moves of an alias are tags of the registered model, with the user, the time, both versions and
    the reason. Two rollbacks in a row take two promotions back. A stream that follows the alias changes
    back to the earlier version as it changed to the later one.

    Example: statecast rollback weather --why "coverage fell"
    """
    job = load_settings(config, settings, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from pipelines.cli.preflight import check_model

    check_model(model, job.mlflow)
    from pipelines.jobs.registry import open_registry

    moved = open_registry(job.mlflow).aliases.rollback(model, alias, why)
    _show_move(out, job, moved)
    out.result(_move_json(moved))


def _show_move(out: Out, job: JobConfig, moved: Promotion) -> None:
    """Print to which version an alias points now, and to which it pointed before."""
    same = moved.previous is not None and moved.previous.number == moved.version.number
    before = "" if moved.previous is None else ", unchanged" if same else f", previously {moved.previous}"
    out.say(store_line(job.mlflow))
    out.say(
        f"{moved.version.name}@{moved.alias} is now {moved.version} ({moved.version.model_version}){before}"
    )


def _move_json(moved: Promotion) -> dict[str, str | None]:
    """Return the object that ``--json`` prints for the move of an alias."""
    return {
        "alias": moved.alias,
        "version": str(moved.version),
        "model_version": moved.version.model_version,
        "previous": str(moved.previous) if moved.previous else None,
    }
