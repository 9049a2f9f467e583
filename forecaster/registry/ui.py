"""The arguments and the environment of the process that serves MLflow's pages for a store.

This module does not import MLflow: another process serves the pages.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from forecaster.registry.store import Store, registry_of
from schemas.errors import ModelError

if TYPE_CHECKING:
    from pydantic import SecretStr


_QUIET = "--log-level warning"


def ui_command(
    tracking_uri: str | SecretStr, host: str = "127.0.0.1", port: int = 5000, artifacts: str = ""
) -> list[str]:
    """Return the command, as arguments of `subprocess`, that serves MLflow's pages for a store.

    Run it with the environment of `ui_environment`, which contains the address of the store: the arguments of
    a process are visible to all users of a machine, and the address can contain a password. A SIGTERM to the
    command also ends its worker processes.

    Args:
        tracking_uri: store of runs.
        host: address to listen on.
        port: port to listen on.
        artifacts: place of the files of runs in a database; empty for an SQLite store.

    Raises:
        ModelError: ``tracking_uri`` is an http server, which has its own pages, or is not a store.
    """
    store = Store.parse(tracking_uri)
    if store.uri.startswith("http"):
        raise ModelError(f"{store} is a server already: open it in a browser")
    store.check()
    command = [sys.executable, "-m", "mlflow", "server"]
    place = artifacts or ("" if store.artifacts is None else store.artifacts.as_uri())
    if place:
        # Without these options, MLflow would write artifacts into the working folder.
        command += ["--default-artifact-root", place, "--artifacts-destination", place]
    return [*command, "--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", _QUIET]


def ui_environment(tracking_uri: str | SecretStr, registry_uri: str | SecretStr = "") -> dict[str, str]:
    """Return the environment for `ui_command`: it names the stores; usage reports and server jobs are off.

    Args:
        tracking_uri: store of runs.
        registry_uri: store of registered models; empty for the store of runs.
    """
    tracking = Store.parse(tracking_uri)
    registry = registry_of(tracking, registry_uri)
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": tracking.uri,
        **({} if registry == tracking else {"MLFLOW_REGISTRY_STORE_URI": registry.uri}),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
