"""The commands ``statecast promote`` and ``statecast ui``, and the loading of a model for a job."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import load_settings
from pipelines.cli.stores import store_line
from schemas.errors import ModelError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.settings.config import JobConfig


def promote(
    model: Annotated[
        str,
        typer.Argument(
            help="Model version that the alias will point to: NAME/3, or NAME@challenger.", metavar="MODEL"
        ),
    ],
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="Alias to move to the version.")] = "champion",
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Make a model version the champion, or point another alias at that version.

    A stream with --follow changes to the version while it runs. Other jobs that load NAME or NAME@champion
    use the version from their next start on, and re-warm state tables that an earlier version wrote.

    Example: statecast promote weather/2
    """
    job = load_settings(config, settings, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from pipelines.cli.preflight import check_model

    check_model(model, job.mlflow)
    from pipelines.jobs.registry import open_registry

    moved = open_registry(job.mlflow).promote(model, alias)
    same = moved.previous is not None and moved.previous.number == moved.version.number
    before = "" if moved.previous is None else ", unchanged" if same else f", previously {moved.previous}"
    out.say(store_line(job.mlflow))
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
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; any but loopback lets other machines connect."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on.", min=1, max=65535)] = 5000,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Serve MLflow's UI of the tracking store, on loopback, until Ctrl-C.

    With --json, the object is printed when the server starts.
    """
    job = load_settings(config, settings, mlflow__tracking_uri=tracking_uri)
    from forecaster.registry.store import Store, ui_command, ui_environment

    command = ui_command(job.mlflow.tracking_uri, host, port)
    environment = ui_environment(job.mlflow.tracking_uri, job.mlflow.registry_uri)
    out = Out(as_json)
    if not (store := Store.parse(job.mlflow.tracking_uri)).exists():
        with out.progress("creating the MLflow store", "stores"):
            from forecaster.registry.new_store import make_store

            make_store(store)
    with subprocess.Popen(command, env=environment) as server:
        try:
            out.say(store_line(job.mlflow))
            out.say(f"MLflow on http://{host}:{port} - it takes some seconds to start; Ctrl-C ends it")
            out.result({"url": f"http://{host}:{port}", "pid": server.pid})
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()  # Ctrl-C in a terminal reaches the server, too, but SIGTERM does not
            server.wait()
            return
    if code:
        raise ModelError(
            f"MLflow's server ended with exit code {code}: if port {port} is in use, choose one with --port"
        )


def load_model(name: str, job: JobConfig, out: Out) -> Forecaster:
    """Load the model that ``name`` refers to, from a folder or from the job's MLflow store.

    A registered model takes precedence over a folder of the same name.

    Raises:
        ModelError: no such model exists.
    """
    from forecaster.registry.store import Store
    from pipelines.cli.preflight import check_model

    reference = check_model(name, job.mlflow)
    folder = reference.folder
    with out.progress(f"loading {name}", "models"):
        if folder and (reference.is_folder or not Store.parse(job.mlflow.tracking_uri).exists()):
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        from pipelines.jobs.registry import open_registry

        registry = open_registry(job.mlflow)
        if folder and not registry.is_registered(reference):
            from forecaster.model import Forecaster

            return Forecaster.load(folder)
        forecaster = registry.load(name)
    also = f"; to load the folder of that name, give --model ./{name}" if folder else ""
    out.say(f"model {name} is {forecaster.version} of {store_line(job.mlflow)}{also}")
    return forecaster
