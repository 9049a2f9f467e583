"""The command ``statecast dashboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.storage import location


def dashboard(
    output: o.OutputOfJob,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8050,
    host: o.Host = "127.0.0.1",
    as_json: o.Json = False,
) -> None:
    """Serve a web page that shows a running stream or a finished job, by default on loopback, until Ctrl-C.

    The page shows the values, forecasts and alarms of a series, the rows, scores and alarms of the fleet, and
    searches series by id. It reads OUTPUT only, so the job is not slowed down.

    With --json, the object is printed when the server starts.

    Example: statecast dashboard out
    """
    folder = location(output)
    from pipelines.dashboard.output_view import OutputView, check_output
    from pipelines.dashboard.server import listening, make_app, server_of

    check_output(folder)
    out = Out(as_json)
    with listening(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        out.say(f"{output} is shown on {url}; Ctrl-C ends it")
        out.result({"url": url, "output": output})
        try:
            server_of(make_app(OutputView(folder), host)).run(sockets=[listener])
        # After Ctrl-C, uvicorn closes its connections and raises KeyboardInterrupt again.
        except KeyboardInterrupt:
            return
