"""A real Flink session cluster for tests: one job manager, task managers, and a pool of Python workers.

All are local processes on the loopback interface; Flink itself is installed with a Python package.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from pipelines.beam.metrics import NAMESPACE
from pipelines.runners.flink import ask
from pipelines.runners.java import JAVA_OPEN_OPTIONS, find_java, flink_home
from schemas.errors import EngineError
from tests.cluster.process import Server, answers, free_port

_ROOT: Final = Path(__file__).parents[2]
_START_LIMIT_S: Final = 120.0
_JOB_MANAGER: Final = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER: Final = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

# Set every part of a task manager's memory, because only Flink's shell scripts compute parts from a total.
# This module starts Flink without its shell scripts.
_CONFIG: Final = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 768m
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest}
blob.server.port: {blob}
taskmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 64m
taskmanager.memory.task.heap.size: {heap}m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 96m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
parallelism.default: 1
classloader.resolve-order: parent-first
state.backend.type: rocksdb
state.checkpoints.dir: file://{folder}/checkpoints
state.savepoints.dir: file://{folder}/savepoints
execution.checkpointing.interval: 2s
restart-strategy.type: none
heartbeat.interval: 1000
heartbeat.timeout: 20000
io.tmp.dirs: {folder}/tmp
"""

_LOGGING: Final = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = Out
appender.out.name = Out
appender.out.type = CONSOLE
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


class FlinkCluster:
    """A session cluster in a folder. It runs until it is stopped, even if the process that started it ends.

    ``with FlinkCluster.start(folder) as cluster:`` stops it at the end of the block.

    Args:
        folder: the folder of a cluster that was started before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rest, self.pool_port = map(int, (folder / "ports").read_text().split())
        heap, *names = (folder / "taskmanagers").read_text().split()
        self.job_manager = Server("jobmanager", folder, _java(folder, _JOB_MANAGER, "-Xmx512m"))
        self.task_managers = [Server(name, folder, _java(folder, _TASK_MANAGER, heap)) for name in names]
        self.pool = Server("workers", folder, _pool(self.pool_port), _environment())

    @classmethod
    def start(cls, folder: Path, task_managers: int = 2, heap_mb: int = 256) -> Self:
        """Start a new cluster in ``folder``, or the stopped processes of the cluster that ``folder`` holds.

        Args:
            folder: the folder for its settings, checkpoints, logs and process ids.
            task_managers: number of task managers, each with one slot.
            heap_mb: heap of each task manager in MiB, which holds the batches on their way between workers.

        Raises:
            EngineError: Java or Flink are missing, or a process does not start.
        """
        folder = folder.absolute()
        if not (folder / "ports").exists():
            rest, rpc, blob, pool = (free_port() for _ in range(4))
            (folder / "tmp").mkdir(parents=True, exist_ok=True)
            config = _CONFIG.format(rpc=rpc, rest=rest, blob=blob, folder=folder, heap=heap_mb)
            (folder / "config.yaml").write_text(config)
            (folder / "log4j2.properties").write_text(_LOGGING)
            names = [f"taskmanager-{n + 1}" for n in range(task_managers)]
            (folder / "taskmanagers").write_text(" ".join([f"-Xmx{heap_mb + 64}m", *names]))
            (folder / "ports").write_text(f"{rest} {pool}")
        cluster = cls(folder)
        cluster.ensure_running()
        return cluster

    @property
    def master(self) -> str:
        """Return the address ``host:port`` of the job manager, for ``--flink-master``."""
        return f"127.0.0.1:{self.rest}"

    @property
    def workers(self) -> str:
        """Return the address ``host:port`` of the pool of Python workers."""
        return f"127.0.0.1:{self.pool_port}"

    @property
    def servers(self) -> list[Server]:
        """Return the job manager, the task managers and the pool of Python workers."""
        return [self.job_manager, *self.task_managers, self.pool]

    def ensure_running(self) -> None:
        """Start the processes that do not run; wait until as many slots as task managers are registered."""
        if self.pool.process is None:
            self.pool.start(lambda: answers(self.pool_port), _START_LIMIT_S)
        if self.job_manager.process is None:
            self.job_manager.start(lambda: answers(self.rest), _START_LIMIT_S)
        for server in self.task_managers:
            if server.process is None:
                server.start(lambda: True)
        until_s = time.monotonic() + _START_LIMIT_S
        while self.slots() < len(self.task_managers):
            if time.monotonic() > until_s:
                raise EngineError(f"the task managers did not start: see {self.folder}")
            time.sleep(0.2)

    def slots(self) -> int:
        """Return the number of task slots that the job manager has registered."""
        with suppress(EngineError):
            return int(ask(self.master, "/overview")["slots-total"])
        return 0

    def counters(self, job: str) -> dict[str, int]:
        """Return the counters of Statecast that the REST interface shows for a job, summed over its tasks."""
        found: dict[str, int] = {}
        for vertex in ask(self.master, f"/jobs/{job}")["vertices"]:
            metrics = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics"
            for name in (metric["id"] for metric in ask(self.master, metrics)):
                _, is_ours, counter = name.rpartition(f".{NAMESPACE}_")
                if is_ours:
                    (metric,) = ask(self.master, f"{metrics}?get={quote(name)}&agg=sum")
                    found[counter] = found.get(counter, 0) + int(metric["sum"])
        return found

    def stop(self) -> None:
        """Stop all processes of the cluster."""
        for server in (*self.task_managers, self.job_manager, self.pool):
            server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _java(folder: Path, main: str, memory: str) -> list[str]:
    return [
        str(find_java()), *JAVA_OPEN_OPTIONS, memory, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        f"-Dlog4j.configurationFile={folder / 'log4j2.properties'}", "-cp", str(flink_home() / "lib" / "*"),
        main, "--configDir", str(folder),
    ]  # fmt: skip


def _pool(port: int) -> list[str]:
    return [sys.executable, "-m", "pipelines.runners.pool", f"--port={port}"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
