"""Program that imports the heavy packages once, and forks a process for each request of a test.

A new Python takes nine CPU seconds to import torch, Beam, MLflow, and the packages that torch and MLflow
import when they are first used; a fork takes 0.05. Each fork is a process with its own session,
environment, streams, signal handlers and exit code.

Only `tests.forked` starts this program, and sends it four files for each process: stdin, stdout, stderr and a
socket. The socket carries the request, and back the process id and the exit code.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apache_beam  # noqa: F401
import git  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import mlflow.pyfunc
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import torch._dynamo
import torch.fx.experimental.symbolic_shapes  # noqa: F401

import forecaster.registry.registry
import pipelines.cli.app
import pipelines.jobs.evaluate
import pipelines.jobs.forecast
import pipelines.jobs.train
import pipelines.runners.on_prism  # noqa: F401


def check_threads() -> None:
    """Check that no import has started the threads of Polars.

    A fork would not have these threads, and a Polars expression in it would wait for them for ever.

    Raises:
        RuntimeError: they run.
    """
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and any((task / "comm").read_text() == "polars-0\n" for task in tasks.iterdir()):
        raise RuntimeError("an imported module evaluates a Polars expression: evaluate it at first use")


def wait_for_request(server: socket.socket) -> dict[str, Any] | None:
    """Wait for requests; return each one in a new process, and None in the server after its client ended."""
    while True:
        message, files, _, _ = socket.recv_fds(server, 1, 4)
        with suppress(ChildProcessError):  # reap the child processes that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return None
        if os.fork() == 0:
            server.close()
            with socket.socket(fileno=files.pop()) as status:
                request = _fork_and_wait(status, files)
            _take_over(request, files)
            return request
        for file in files:
            os.close(file)


def _fork_and_wait(status: socket.socket, streams: list[int]) -> dict[str, Any]:
    """Read the request and fork once more; only the child process returns, with the request.

    The parent process reports the process id and the exit code of the child, each in four bytes, and ends.
    So the server itself never waits until a request's process ends.
    """
    with status.makefile() as lines:
        request: dict[str, Any] = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        for file in streams:
            os.close(file)
        status.sendall(pid.to_bytes(4, signed=True))
        status.sendall(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]).to_bytes(4, signed=True))
        os._exit(0)
    return request


def _take_over(request: dict[str, Any], streams: list[int]) -> None:
    """Prepare this process for a request.

    The process starts a session. It gets ``streams`` as its standard streams, and takes the working folder,
    the environment and the ignored signals from the request.
    """
    os.setsid()
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, signal.SIG_IGN if number in request["ignoring"] else handler)
    for stream, file in enumerate(streams):
        os.dup2(file, stream)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # The reload sets each environment variable for MLflow that ``request["env"]`` does not set.
    importlib.reload(forecaster.registry)
    # Jobs call `gc.unfreeze`: make it do nothing. Otherwise a garbage collection would write to the memory
    # of all imported modules, so the kernel would copy this memory for each fork.
    patch("gc.unfreeze").start()


def run(request: dict[str, Any]) -> None:
    """Run the module (``-m``) or the code (``-c``) in a request as the main program of this process."""
    kind, program, *arguments = request["arguments"]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, sys.modules["__main__"].__dict__)


def run_and_exit(request: dict[str, Any]) -> None:
    """Run a request, and end this process as Python does, but without deleting the imported modules.

    Python would spend three CPU seconds on it, because the kernel copies each page of a fork that is changed.
    """
    code = 0
    try:
        run(request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # Python warns of unreachable files that were not closed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    logging.getLogger().handlers.clear()  # remove the handler that was added if an import logged a warning
    check_threads()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as server:
        request = wait_for_request(server)
    if request is not None:
        run_and_exit(request)
