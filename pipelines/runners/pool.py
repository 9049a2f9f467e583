"""Run a pool of Python workers, from which the task managers of a Flink cluster request worker processes.

::

    python -m pipelines.runners.pool --port 50000

This pool replaces the pool of Beam, for two reasons. Beam's pool identifies workers by numbers, and every
task manager counts them from the same start. So two task managers on one pool end each other's workers.
Beam's pool also listens on every interface. A worker of this pool ends when its task manager closes the
connection.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

_THREADS: Final = 8
_STOP_LIMIT_S: Final = 5.0


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """A gRPC service that starts a worker process for each request of a task manager."""

    def __init__(self) -> None:
        self.workers: list[subprocess.Popen[bytes]] = []
        self._starting = threading.Lock()

    def command(self, request: Any) -> list[str]:
        """Return the command that starts a worker for a request."""
        control = request.control_endpoint.url
        return [sys.executable, "-m", __spec__.name, "worker", control, request.worker_id]

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Start a worker process that connects to the task manager that sent the request."""
        with self._starting:
            self.workers = [worker for worker in self.workers if worker.poll() is None]
            self.workers.append(subprocess.Popen(self.command(request), stdin=subprocess.DEVNULL))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Do nothing, because a worker ends by itself when the task manager closes its connection."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """Terminate all workers, and kill each worker that does not end within 5 seconds."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def serve(host: str, port: int) -> None:
    """Start a worker for each request at ``host:port`` until this process ends; then end all workers."""
    pool = Pool()
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    print(f"workers are started at {host}:{bound}", flush=True)
    try:
        server.wait_for_termination()
    finally:
        pool.close()


def work(control: str, worker_id: str) -> None:
    """Run a worker until its task manager closes the connection.

    Args:
        control: ``host:port`` of the task manager's control service.
        worker_id: the id that the task manager gave the worker.
    """
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    from forecaster.threads import compute_threads
    from pipelines.workers.process import reuse_freed_memory

    reuse_freed_memory()
    with compute_threads(1), suppress(grpc.RpcError):
        SdkHarness(control, worker_id=worker_id).run()


def main(arguments: list[str]) -> int:
    """Run the pool of workers, or a single worker if the arguments are ``worker CONTROL ID``."""
    if arguments[:1] == ["worker"]:
        work(*arguments[1:])
        sys.stdout.flush()
        os._exit(0)  # `sys.exit` would wait for threads that the job has left running
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.runners.pool", description="A pool of workers."
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=50000, help="port to listen on (50000)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        serve(options.host, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
