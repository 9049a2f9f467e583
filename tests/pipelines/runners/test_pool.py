"""A pool starts a worker for whoever asks, and one that hangs up ends its own alone."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

from pipelines.runners import pool
from pipelines.runners.pool import Pool
from tests.cluster.process import answers, free_port

PATIENCE_S = 120.0


def asked(pool: Pool, worker_id: str, port: int) -> None:
    request = SimpleNamespace(worker_id=worker_id, control_endpoint=SimpleNamespace(url=f"127.0.0.1:{port}"))
    pool.StartWorker(request, None)


def test_two_workers_of_one_id_do_not_end_each_other() -> None:
    made = Pool()
    made.command = lambda request: [sys.executable, "-c", "import time; time.sleep(60)"]  # type: ignore[method-assign]
    try:
        asked(made, "1-1", 1)
        asked(made, "1-1", 2)
        made.StopWorker(SimpleNamespace(worker_id="1-1"), None)
        assert [worker.poll() for worker in made.workers] == [None, None]
    finally:
        made.close()


def test_a_pool_listens_on_the_loopback_interface_and_ends_when_it_is_asked_to() -> None:
    port = free_port()
    command = [sys.executable, "-m", pool.__name__, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"workers are started at 127.0.0.1:{port}\n"
        assert answers(port)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    until_s = time.monotonic() + PATIENCE_S
    while answers(port):
        assert time.monotonic() < until_s
