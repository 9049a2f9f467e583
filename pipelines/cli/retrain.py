"""The command ``statecast retrain``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.compare import show_comparison
from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress
from pipelines.cli.promote import check_decision, show_decision
from pipelines.cli.settings import input_files, load_settings, paths
from pipelines.cli.stores import store_line
from schemas.errors import PromotionRefused


def retrain(
    model: Annotated[
        str,
        typer.Argument(
            help="Registered model to start from: NAME (its champion), NAME@ALIAS or NAME/3.", metavar="MODEL"
        ),
    ],
    data: o.Data = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Compare the new version with the champion on the windows that it has not learned from, and "
            "promote it if it is inside every limit of the section gate of the job file.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of passes over the windows.",
            show_default="a third of training.epochs",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    seed: o.Seed = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Train a registered model further on recent data, and register the result as its challenger.

    The training starts from the weights of MODEL, keeps its network, windows and encoding of covariates, and
    takes a third of training.epochs with a third of training.learning_rate. Its run is a child of the run
    that trained MODEL. The last training.backtest share of the windows is not learned from. If no epoch is
    better on the validation windows than the weights of MODEL, no version is registered.

    With --gate, the last windows decide at once whether the new version becomes the champion; a refusal gives
    one line and exit code 7.

    A line for cron, every Sunday at 3: 0 3 * * 0 cd /srv/weather && statecast retrain weather recent --gate

    Example: statecast retrain weather recent.parquet --gate
    """
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        data__skip_bad_files=skip_bad_files, training__seed=seed, mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    out = Out(as_json)
    from pipelines.cli.preflight import check_model

    check_model(model, job.mlflow)
    input_files(job)
    with out.loading("torch and MLflow"):
        from pipelines.jobs.retrain import run_retraining
    with job_progress(out, "training", replays=True) as progress:
        retrained = run_retraining(job, model, gate=gate, epochs=epochs, progress=progress)
    for line in retrained.notices:
        out.notice(line)
    out.say(store_line(job.mlflow))
    kept = f"no epoch was better than {retrained.parent} on the validation windows: no version was registered"
    version = retrained.version
    if version is None:
        out.say(kept)
    else:
        out.say(
            f"registered {version} ({version.model_version}) as challenger, retrained from "
            f"{retrained.parent}, run {retrained.run_id}"
        )
    if retrained.gated is not None:
        show_comparison(out, retrained.gated.compared)
        show_decision(out, job, retrained.gated)
    elif version is not None:
        out.say(f"compare it on newer rows: statecast promote {version} --if-better DATA")
    out.result(retrained.as_json())
    if gate and version is None:
        raise PromotionRefused(kept)
    if retrained.gated is not None:
        check_decision(retrained.gated)
