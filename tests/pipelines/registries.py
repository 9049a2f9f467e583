"""A schema registry for tests: an HTTP server in this process that records its requests."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, Any]
"""HTTP status, and the value that the body holds as JSON."""


@dataclass
class Registry:
    """The address of a schema registry, and the requests that it has received.

    Attributes:
        url: address of the registry.
        requests: method and path of each request so far.
        users: header ``Authorization`` of each request; None where it was absent.
        posted: body of the last POST request to each path.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    posted: dict[str, Any] = field(default_factory=dict)


@contextmanager
def registry_of(answer: Callable[[str], Answer], body: bytes | None = None) -> Iterator[Registry]:
    """Run a schema registry that responds to each request with ``answer("METHOD PATH")``; yield it.

    ``body`` replaces the JSON text of every answer.
    """
    made = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            made.posted[self.path] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer()

        def answer(self) -> None:
            made.requests.append(f"{self.command} {self.path}")
            made.users.append(self.headers.get("Authorization"))
            status, found = answer(made.requests[-1])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode() if body is None else body)

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
