"""Tests of the worker pool, a server that starts a worker process for each request of an engine."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

from pipelines.runners import pool
from pipelines.runners.pool import Pool
from tests.cluster.process import answers, free_port
from tests.forked import ForkedProcess

TIMEOUT_S = 120.0


def request_worker(pool: Pool, worker_id: str, port: int) -> None:
    request = SimpleNamespace(worker_id=worker_id, control_endpoint=SimpleNamespace(url=f"127.0.0.1:{port}"))
    pool.StartWorker(request, None)


def test_stop_worker_calls_end_no_worker_of_the_pool() -> None:
    """Workers of two jobs may have the same id. So a stop request ends no worker at all."""
    worker_pool = Pool()
    worker_pool.command = lambda request: [sys.executable, "-c", "import time; time.sleep(60)"]  # type: ignore[method-assign]
    try:
        request_worker(worker_pool, "1-1", 1)
        request_worker(worker_pool, "1-1", 2)
        worker_pool.StopWorker(SimpleNamespace(worker_id="1-1"), None)
        assert [worker.poll() for worker in worker_pool.workers] == [None, None]
    finally:
        worker_pool.close()


def test_a_pool_listens_on_loopback_and_ends_on_sigterm() -> None:
    port = free_port()
    with ForkedProcess(["-m", pool.__name__, "--port", str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"workers are started at 127.0.0.1:{port}\n"
        assert answers(port)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    deadline_s = time.monotonic() + TIMEOUT_S
    while answers(port):
        assert time.monotonic() < deadline_s
