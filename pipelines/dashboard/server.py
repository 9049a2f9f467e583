"""Serve the page of an output folder over HTTP; the page loads no files from other machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipelines.dashboard.output_view import OutputView
from schemas.errors import ConfigError, one_line

_STATIC: Final = Path(__file__).parent / "static"
_EVERY_ADDRESS: Final = ("0.0.0.0", "::")
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Headers of every answer. The browser loads nothing from another machine; Plotly sets inline styles."""


def make_app(view: OutputView, host: str = "127.0.0.1") -> FastAPI:
    """Return the web application that serves the dashboard.

    A request must name ``host`` or this machine. So another web site cannot read the output through a host
    name that it points at this machine.

    Args:
        view: reads the output folder.
        host: address that the server listens on.
    """
    # Turn off FastAPI's own pages, because they load scripts from another machine.
    app = FastAPI(title="Statecast", docs_url=None, redoc_url=None, openapi_url=None)
    hosts = ["*"] if host in _EVERY_ADDRESS else ["127.0.0.1", "localhost", "[::1]", "::1", host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    @app.middleware("http")
    async def add_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(Exception)
    async def report(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"notes": [f"this page has a bug: {one_line(error)}"]}, 500)

    @app.get("/api/fleet")
    def fleet() -> dict[str, Any]:
        return view.fleet()

    @app.get("/api/series")
    def search(q: str = "") -> dict[str, Any]:
        return view.search(q)

    @app.get("/api/one")
    def one(series_id: str) -> dict[str, Any]:
        return view.series(series_id)

    @app.get("/plotly.min.js")
    def plotly() -> FileResponse:
        return FileResponse(str(files("plotly") / "package_data" / "plotly.min.js"))

    app.mount("/", StaticFiles(directory=_STATIC, html=True))
    return app


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens on an address, for a server that the ``with`` block starts.

    Args:
        host: address to listen on.
        port: port; 0 chooses a free one.

    Yields:
        The socket that listens on the address.

    Raises:
        ConfigError: the address is unknown, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=64)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise ConfigError(
            f"--port {port}: {host} cannot be listened on ({reason}): choose another port"
        ) from error
    with listener:
        yield listener


def server_of(app: FastAPI) -> uvicorn.Server:
    """Return a web server that logs nothing; its ``run(sockets=[...])`` serves until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)
