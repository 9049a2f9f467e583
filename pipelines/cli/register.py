"""Send an unsent run or a saved model (``statecast register``) or all unsent runs (``sync``) to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import load_settings
from pipelines.cli.stores import store_line
from schemas.errors import ModelError

if TYPE_CHECKING:
    from forecaster.registry.versions import Sent


def register(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=o.local_path,
            metavar="FOLDER",
            help="Folder of an unsent run, or of a saved model (with forecaster.safetensors).",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--register",
            metavar="MODEL",
            help="Registered model that a saved model is added to; an unsent run has its own.",
            show_default="statecast",
            rich_help_panel=o.MODELS,
        ),
    ] = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Finish a training that could not reach its MLflow store: register its model, send metrics and files.

    A training that cannot reach its store leaves a folder in statecast-unsent, and names it. The folder is
    removed when the store has everything. The command also registers a model that was saved into a folder.

    Example: statecast register statecast-unsent/lstm-3f2a9c1b
    """
    job = load_settings(config, settings, mlflow__model=name, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from pipelines.cli.preflight import check_store

    check_store(job.mlflow)
    with out.progress("sending", "runs"):
        from pipelines.jobs.registry import open_registry

        sent = open_registry(job.mlflow).send(folder, job.mlflow.model)
    out.say(store_line(job.mlflow))
    _print_sent(out, folder, sent)
    out.result({"run_id": sent.run_id, "version": str(sent.version) if sent.version else None})


def sync(
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Send all runs in statecast-unsent (or mlflow.unsent) to the MLflow store, and register their models.

    Example: statecast sync --tracking-uri http://127.0.0.1:5000
    """
    job = load_settings(config, settings, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from forecaster.registry.outbox import unsent
    from pipelines.cli.preflight import check_store

    folders = unsent(Path(job.mlflow.unsent))
    if not folders:
        out.say(f"nothing is unsent in {job.mlflow.unsent}")
        out.result({"sent": [], "unsent": []})
        return
    check_store(job.mlflow)
    with out.progress("sending", "runs", len(folders)) as bar:
        from pipelines.jobs.registry import open_registry

        registry = open_registry(job.mlflow)
        sent, errors = [], []
        for folder in folders:
            try:
                sent.append((folder, registry.send(folder, job.mlflow.model)))
            except ModelError as error:
                errors.append(error)
            bar.add(1)
    out.say(store_line(job.mlflow))
    for folder, one in sent:
        _print_sent(out, folder, one)
    out.result(
        {
            "sent": [{"run_id": one.run_id, "version": str(one.version or "")} for _, one in sent],
            "unsent": [str(folder) for folder in unsent(Path(job.mlflow.unsent))],
        }
    )
    if errors:
        raise errors[0]


def _print_sent(out: Out, folder: Path, sent: Sent) -> None:
    """Print which run was sent to MLflow from ``folder``, and which model version was registered."""
    for line in sent.notices:
        out.notice(line)
    version = sent.version
    what = f"registered {version} = {version.model_version}, " if version is not None else ""
    out.say(f"{folder}: {what}run {sent.run_id} is complete")
