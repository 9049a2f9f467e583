"""An MLflow server in this process, for tests; it checks and records the logins of requests."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from werkzeug.serving import WSGIRequestHandler, make_server

from forecaster.registry.new_store import make_store
from forecaster.registry.store import Store


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: Any) -> None:
        pass


@dataclass
class Server:
    """A running MLflow server that records logins.

    Attributes:
        address: ``host:port``.
        folder: the folder of its database and artifacts.
        logins: the Authorization header of each request except for ``/health``; None without one.
    """

    address: str
    folder: Path
    logins: list[str | None] = field(default_factory=list)


@contextmanager
def mlflow_server(folder: Path, accepts: Callable[[str | None], bool]) -> Iterator[Server]:
    """Run an MLflow server with a new store while the block runs.

    Args:
        folder: the folder for its database and artifacts.
        accepts: returns True if an Authorization header is accepted.
    """
    store = f"sqlite:///{folder}/server.db"
    make_store(Store.parse(store))
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (folder / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app, handlers

    with (
        patch.dict(os.environ, settings),
        patch.object(handlers, "_tracking_store", None),
        patch.object(handlers, "_artifact_repo", None),
        patch.object(handlers, "_model_registry_store", None),
    ):
        handlers.initialize_backend_stores(store, store, settings["_MLFLOW_SERVER_ARTIFACT_ROOT"])
        # The server writes the address of its store into the environment; remove it, as tests would read it.
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)

        def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/health":
                login = environ.get("HTTP_AUTHORIZATION")
                server.logins.append(login)
                if not accepts(login):
                    start("401 Unauthorized", [("Content-Type", "text/plain")])
                    return [b"login required"]
            answer: Iterable[bytes] = app(environ, start)
            return answer

        serving = make_server("127.0.0.1", 0, guarded, threaded=True, request_handler=_Quiet)
        server = Server(f"127.0.0.1:{serving.server_port}", folder)
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            serving.shutdown()
            thread.join()
            serving.server_close()


def basic(login: str) -> str:
    """Return the value of the HTTP header Authorization for a login ``name:password``."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"
