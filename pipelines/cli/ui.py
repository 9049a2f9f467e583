"""The command ``statecast ui``, which serves MLflow's pages and opens the view of the training runs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from typing import IO, TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import load_settings
from pipelines.cli.stores import store_line
from schemas.errors import ConfigError, ModelError
from schemas.masking import split_login

if TYPE_CHECKING:
    from pipelines.settings.mlflow_config import MlflowConfig

_START_TIMEOUT_S = 120.0


def ui(
    host: o.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on.", min=1, max=65535)] = 5000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser, on a desktop.")
    ] = True,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Serve MLflow's UI of the tracking store until Ctrl-C, and open the page of its runs in a browser.

    The page shows the runs with the highest skill first, with the columns and charts that compare them. If
    the store is a server already, the command opens the page there and ends.

    With --json, the object is printed when the server answers.
    """
    job = load_settings(config, settings, mlflow__tracking_uri=tracking_uri)
    out = Out(as_json)
    from forecaster.registry.store import Store

    store = Store.parse(job.mlflow.tracking_uri)
    if store.uri.startswith("http"):
        public, _ = split_login(store.uri)
        url = _prepared_page(job.mlflow, public, out)
        out.say(f"training runs: {url}")
        out.result({"url": url})
        _open(url, browser and not as_json)
        return
    _check_port(host, port)
    address = f"http://{host}:{port}"
    url = _prepared_page(job.mlflow, address, out)
    _serve(job.mlflow, host, port, url, browser, out)


def _prepared_page(mlflow: MlflowConfig, address: str, out: Out) -> str:
    """Prepare MLflow's page of the training runs; return its URL on the server with the URL ``address``."""
    with out.loading("MLflow"):
        from pipelines.jobs.registry import open_registry

        return open_registry(mlflow).prepare_page(address)


def _serve(mlflow: MlflowConfig, host: str, port: int, url: str, browser: bool, out: Out) -> None:
    """Run MLflow's server until Ctrl-C.

    Raises:
        ModelError: the server ends by itself; the message has its last line of output.
    """
    from forecaster.registry.ui import ui_command, ui_environment

    command = ui_command(mlflow.tracking_uri, host, port, mlflow.artifacts)
    environment = ui_environment(mlflow.tracking_uri, mlflow.registry_uri)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            with out.progress("starting the server", "servers"):
                _wait_until_it_answers(f"http://{host}:{port}/health", server)
            if server.poll() is None:
                out.say(store_line(mlflow))
                out.say(f"MLflow on http://{host}:{port} - Ctrl-C ends it")
                out.say(f"training runs: {url}")
                out.result({"url": url, "pid": server.pid})
                _open(url, browser and not out.as_json)
            code = server.wait()
        except KeyboardInterrupt:
            # SIGTERM also raises KeyboardInterrupt (`pipelines.cli.app`). Unlike Ctrl-C, it reaches only this
            # process, so the server still runs.
            server.terminate()
            server.wait()
            return
        if code:
            raise ModelError(f"the MLflow server ended with exit code {code}: {_last_line(log)}")


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers at ``url`` or has ended, or until a time limit."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)


def _check_port(host: str, port: int) -> None:
    """Raise ConfigError if nothing can listen on the address and port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on {host}, port {port} ({error.strerror}): choose another with --port"
            ) from error


def _open(url: str, wanted: bool) -> None:
    """Open a page in a browser, if ``wanted`` and if the command runs in the terminal of a desktop."""
    has_desktop = sys.platform == "darwin" or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))
    if wanted and has_desktop and sys.stdout.isatty():
        webbrowser.open(url)


def _last_line(log: IO[str]) -> str:
    """Return the last line in the log of a server."""
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "it printed nothing"
