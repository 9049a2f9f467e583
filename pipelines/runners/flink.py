"""Flink, the distributed engine, through Beam's job server: a Java process of one job.

The job server takes a pipeline and hands it to a Flink: an embedded one of its own (``[local]``), or a
session cluster (``host:port`` of its REST interface), whose task managers then ask a pool of Python workers
for theirs. The job goes on in the cluster without the job server, but nobody hears of it then; so it is
cancelled with it (`cancel`).
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
from pipelines.runners.java import OPENS, find_java, job_server
from schemas.errors import EngineError

_DRIVER: Final = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_START_LIMIT_S: Final = 120.0
_ASK_LIMIT_S: Final = 10.0
_FOR_EVER_MS: Final = 2**62


class JobServer(EngineProcess):
    """Beam's job server for Flink, for as long as the ``with`` block lasts, or the process that started it.

    Args:
        master: ``[local]``, or ``host:port`` of a session cluster.
        log: file that it writes to; its folder is made.

    Raises:
        EngineError: on entry, where Java or the jars are missing, or it does not start.
    """

    def __init__(self, master: str, log: Path) -> None:
        super().__init__("Flink's job server", log, _START_LIMIT_S)
        self.master = master
        self._artifacts: tempfile.TemporaryDirectory[str] | None = None

    def command(self, port: int) -> Sequence[str]:
        """Java with the job server's jars."""
        java, (jars, _) = find_java(), job_server()
        self._artifacts = tempfile.TemporaryDirectory(prefix="statecast-flink-", ignore_cleanup_errors=True)
        self._block.enter_context(self._artifacts)
        return [
            str(java), *OPENS, "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", str(jars / "*"), _DRIVER, "--flink-master", self.master,
            "--job-host", "localhost", "--job-port", str(port), "--artifact-port", str(free_port()),
            "--expansion-port", str(free_port()), "--artifacts-dir", self._artifacts.name,
        ]  # fmt: skip


def flink_options(endpoint: str, settings: FlinkSettings, parallelism: int) -> list[str]:
    """Beam's pipeline options to run a stream on Flink through the job server at ``endpoint``.

    Args:
        endpoint: `JobServer.endpoint`.
        settings: which Flink, and where its workers are.
        parallelism: how many shards are stepped side by side.
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
        "--experiments=disable_logging_submission_environment",  # it asks pip, which need not be here
        # Bundles last a second else, and what is in one is on its way when it ends. That spelling.
        "--max_bundle_time_mills=5",
        # Whoever started the job goes on from the state table; what Flink kept would be behind it.
        "--number_of_execution_retries=0",
        # A source that has ended has Flink finish the steps after it one by one, and the runner would read
        # our log to its end in there (`ExecutableStageDoFnOperator.flushData`): meanwhile no checkpoint
        # passes, and no savepoint. So it never ends; whoever runs the job cancels it when all shards have.
        f"--shutdown_sources_after_idle_ms={_FOR_EVER_MS}",
    ]


def jobs(master: str) -> dict[str, tuple[str, str]]:
    """The jobs of a session cluster by id: the name of each, and what state it is in.

    Raises:
        EngineError: nobody answers there.
    """
    return {job["jid"]: (job["name"], job["state"]) for job in ask(master, "/jobs/overview")["jobs"]}


def cancel(master: str, job: str) -> None:
    """Cancels a job of a session cluster; one that has ended is left alone."""
    with suppress(EngineError):
        ask(master, f"/jobs/{job}?mode=cancel", "PATCH")


def ask(master: str, path: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    """What a session cluster answers on its REST interface.

    Raises:
        EngineError: nobody answers there, or no.
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
