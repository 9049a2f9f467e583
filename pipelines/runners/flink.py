"""Run Beam's job server, which submits a job to Flink; send requests to Flink's REST interface.

The job server is a Java process for one job. It submits the pipeline to a Flink in its own process
(``[local]``), or to a session cluster (``host:port`` of its REST interface). The task managers of a cluster
request Python workers from a pool. A cluster would go on running the job after the job server has ended, but
no process would follow the job. So the job is then cancelled in the cluster (`cancel`).
"""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pipelines.runners.base import LOCAL, FlinkSettings
from pipelines.runners.engine import EngineProcess, free_port
from pipelines.runners.java import JAVA_OPEN_OPTIONS, find_java, job_server
from schemas.errors import EngineError

_DRIVER: Final = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_START_LIMIT_S: Final = 120.0
_ASK_LIMIT_S: Final = 10.0
_FOR_EVER_MS: Final = 2**62


class JobServer(EngineProcess):
    """A context manager that runs Beam's job server for Flink (see `EngineProcess`).

    Args:
        master: ``[local]``, or ``host:port`` of a session cluster.
        log: file for the job server's output; its folder is created.

    Raises:
        EngineError: on entry, if Java or the jars are missing or the job server does not start.
    """

    def __init__(self, master: str, log: Path) -> None:
        super().__init__("Flink's job server", log, _START_LIMIT_S)
        self.master = master
        self._artifacts: tempfile.TemporaryDirectory[str] | None = None

    def command(self, port: int) -> Sequence[str]:
        """Return the Java command that starts the job server on ``port``."""
        java, (jars, _) = find_java(), job_server()
        self._artifacts = tempfile.TemporaryDirectory(prefix="statecast-flink-", ignore_cleanup_errors=True)
        self._block.enter_context(self._artifacts)
        return [
            str(java), *JAVA_OPEN_OPTIONS, "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", str(jars / "*"), _DRIVER, "--flink-master", self.master,
            "--job-host", "localhost", "--job-port", str(port), "--artifact-port", str(free_port()),
            "--expansion-port", str(free_port()), "--artifacts-dir", self._artifacts.name,
        ]  # fmt: skip


def flink_options(endpoint: str, settings: FlinkSettings, parallelism: int) -> list[str]:
    """Return Beam's pipeline options to run a job on Flink through the job server at ``endpoint``.

    Args:
        endpoint: `JobServer.endpoint`.
        settings: the addresses of Flink and its workers.
        parallelism: number of parallel subtasks, which step shards at the same time.
    """
    environment = (
        ["--environment_type=LOOPBACK"]
        if settings.workers is None
        else ["--environment_type=EXTERNAL", f"--environment_config={settings.workers}"]
    )
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        f"--flink_master={settings.master}",
        *environment,
        "--streaming",
        f"--parallelism={parallelism}",
        # Without this option, Beam calls pip to log the installed packages, and pip may be missing.
        "--experiments=disable_logging_submission_environment",
        # A bundle passes its rows on at its end, by default after a second. "mills" is Beam's spelling.
        "--max_bundle_time_mills=5",
        # Flink must not restart a job, because Statecast resumes the job itself, from the state table.
        "--number_of_execution_retries=0",
        # The source must not end: `run_on_flink` cancels the job when all shards have ended.
        # If the source ended, Flink would finish the other steps of the pipeline one by one.
        # While a step finishes, `ExecutableStageDoFnOperator.flushData` blocks checkpoints and savepoints.
        f"--shutdown_sources_after_idle_ms={_FOR_EVER_MS}",
    ]


def jobs(master: str) -> dict[str, tuple[str, str]]:
    """Return the name and the state of each job of a session cluster, by job id.

    Raises:
        EngineError: no cluster answers at ``master``.
    """
    return {job["jid"]: (job["name"], job["state"]) for job in ask(master, "/jobs/overview")["jobs"]}


def exceptions(master: str, job: str) -> list[tuple[str, ...]]:
    """Return the exceptions that failed the tasks of a job, newest first.

    An exception is a tuple of class names without packages: its own Java class, then those of its causes.

    Raises:
        EngineError: no cluster answers at ``master``, or it does not know the job.
    """
    entries = ask(master, f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]
    failures = [failure for entry in entries for failure in (entry, *entry.get("concurrentExceptions", ()))]
    return [_classes(failure["stacktrace"]) for failure in failures]


def _classes(stack_trace: str) -> tuple[str, ...]:
    """Return the class names of the exceptions in a Java stack trace, without packages."""
    heads = [line.removeprefix("Caused by: ").partition(":")[0] for line in stack_trace.splitlines()]
    names = [
        head.replace("$", ".").rpartition(".")[2] for head in heads if " " not in head and "\t" not in head
    ]
    return tuple(name for name in names if name.endswith(("Exception", "Error")))


def cancel(master: str, job: str) -> None:
    """Request that a session cluster cancels a job; ignore a cluster that refuses or does not answer."""
    with suppress(EngineError):
        ask(master, f"/jobs/{job}?mode=cancel", "PATCH")


def ask(master: str, path: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    """Send a request to the REST interface of a session cluster and return the decoded JSON answer.

    Raises:
        EngineError: no cluster answers at ``master``, or it refuses the request.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{master}{path}", data, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=_ASK_LIMIT_S) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise EngineError(f"Flink at {master} refuses {path}: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise EngineError(
            f"no Flink answers at {master} ({error}): name its REST address, host:port, or {LOCAL}"
        ) from error
