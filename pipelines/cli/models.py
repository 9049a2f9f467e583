"""``statecast promote`` and ``ui``."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import configured
from schemas.errors import ModelError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.config import JobConfig


def promote(
    model: Annotated[
        str,
        typer.Argument(
            help="The version to point the alias at: NAME/3, or NAME@challenger.", metavar="MODEL"
        ),
    ],
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="The alias that moves.")] = "champion",
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Make a model version the champion, or move another alias to it.

    Jobs that load NAME or NAME@champion use it from their next start on. A state table of the version before
    is re-warmed then.

    Example: statecast promote weather/2
    """
    job = configured(config, settings, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from pipelines.cli.preflight import check_model

    check_model(model, job.mlflow.tracking_uri)
    from forecaster.registry.registry import Registry

    moved = Registry(job.mlflow.tracking_uri, job.mlflow.experiment).promote(model, alias)
    same = moved.previous is not None and moved.previous.number == moved.version.number
    before = "" if moved.previous is None else ", as it was" if same else f", before it {moved.previous}"
    out.say(
        f"{moved.version.name}@{moved.alias} is now {moved.version} ({moved.version.model_version}){before}"
    )
    out.result(
        {
            "alias": moved.alias,
            "version": str(moved.version),
            "model_version": moved.version.model_version,
            "previous": str(moved.previous) if moved.previous else None,
        }
    )


def ui(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; others than loopback let others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on.", min=1, max=65535)] = 5000,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Open MLflow's UI on the tracking store, on loopback, until Ctrl-C.

    With --json, the object is printed when the server starts.
    """
    job = configured(config, settings, mlflow__tracking_uri=tracking_uri)
    from forecaster.registry.store import ui_command, ui_environment

    command = ui_command(job.mlflow.tracking_uri, host, port)
    out = Out(as_json)
    with subprocess.Popen(command, env=ui_environment()) as server:
        try:
            out.say(f"MLflow on http://{host}:{port} - it takes some seconds; Ctrl-C ends it")
            out.result({"url": f"http://{host}:{port}", "pid": server.pid})
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()  # the terminal told it, too; this is for a signal that reached us alone
            server.wait()
            return
    if code:
        raise ModelError(f"MLflow's server ended with exit code {code}: is port {port} taken? try --port")


def load_model(name: str, job: JobConfig, out: Out) -> Forecaster:
    """The model that people name so, from a folder or the job's store.

    Raises:
        ModelError: there is none.
    """
    from forecaster.registry.store import Reference
    from pipelines.cli.preflight import check_model

    check_model(name, job.mlflow.tracking_uri)
    with out.progress(f"loading {name}", "models"):
        if folder := Reference.parse(name).folder:
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        from forecaster.registry.registry import Registry

        return Registry(job.mlflow.tracking_uri, job.mlflow.experiment).load(name)
