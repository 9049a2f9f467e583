"""``statecast promote`` and ``ui``."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import configured
from pipelines.cli.stores import store_line
from schemas.errors import ModelError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.settings.config import JobConfig


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

    check_model(model, job.mlflow)
    from pipelines.jobs.registry import open_registry

    moved = open_registry(job.mlflow).promote(model, alias)
    same = moved.previous is not None and moved.previous.number == moved.version.number
    before = "" if moved.previous is None else ", as it was" if same else f", before it {moved.previous}"
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
    from forecaster.registry.store import Store, ui_command, ui_environment

    command = ui_command(job.mlflow.tracking_uri, host, port)
    environment = ui_environment(job.mlflow.tracking_uri, job.mlflow.registry_uri)
    out = Out(as_json)
    if not (store := Store.parse(job.mlflow.tracking_uri)).exists():
        with out.progress("making the MLflow store", "stores"):
            from forecaster.registry.new_store import make_store

            make_store(store)
    with subprocess.Popen(command, env=environment) as server:
        try:
            out.say(store_line(job.mlflow))
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
    also = f"; the folder of that name is --model ./{name}" if folder else ""
    out.say(f"model {name} is {forecaster.version} of {store_line(job.mlflow)}{also}")
    return forecaster
