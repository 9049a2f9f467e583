"""Tests of the Flink runner with a fake Flink: options, causes of failures, and lost job managers."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.runners import flink, on_flink
from pipelines.runners.base import FlinkSettings, Run
from pipelines.runners.flink import JobServer, flink_options
from pipelines.storage import Remote
from pipelines.workers.ownership import has_ended, mark_shard_ended, read_owner, take_ownership
from pipelines.workers.step_settings import StepSettings
from schemas.errors import EngineError, EngineLost
from tests.stores import in_memory

AnyLog: Any = object


def test_flink_options_use_loopback_only_without_a_worker_pool() -> None:
    assert "--environment_type=LOOPBACK" in flink_options("localhost:1", FlinkSettings(), 1)
    options = flink_options("localhost:1", FlinkSettings("host:8081", "host:50000"), 2)
    assert "--environment_type=EXTERNAL" in options
    assert "--environment_config=host:50000" in options
    assert "--flink_master=host:8081" in options
    assert "--parallelism=2" in options


def test_jobs_disable_the_restarts_of_flink() -> None:
    """The job itself restarts from its state table."""
    assert "--number_of_execution_retries=0" in flink_options("localhost:1", FlinkSettings(), 1)


def test_flink_options_disable_the_shutdown_of_ended_sources() -> None:
    """If a source shut down, the steps after it would finish, which blocks checkpoints and savepoints."""
    options = flink_options("localhost:1", FlinkSettings(), 1)
    (idle_ms,) = [
        option.partition("=")[2] for option in options if option.startswith("--shutdown_sources_after_idle")
    ]
    assert int(idle_ms) > 1000 * 3600 * 24 * 365 * 100


def test_an_unreachable_flink_cluster_raises_engine_error() -> None:
    with pytest.raises(EngineError, match=r"no Flink answers at 127\.0\.0\.1:1"):
        flink.jobs("127.0.0.1:1")


def test_a_cancelled_or_stopped_flink_job_raises_engine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch)
    cluster.answer = {"1": ("job", "CANCELED")}
    settings = StepSettings("a", b"", 2, 1, tmp_path, "parquet", 1, resumed=False)
    run = Run(AnyLog(), {}, settings, tmp_path / ".stop", 1.0, tmp_path)
    take_ownership(settings)
    on_flink._check_ended("RUNNING", run, "host:1", "job")
    for state, message in (("FAILED", "was cancelled"), ("DONE", "was stopped")):
        with pytest.raises(EngineError, match=f"{message}.*--resume") as raised:
            on_flink._check_ended(state, run, "host:1", "job")
        assert not isinstance(raised.value, EngineLost)
    cluster.answer = {"1": ("job", "FAILED")}
    on_flink._check_ended("FAILED", run, "host:1", "job")
    for number in range(2):
        (tmp_path / f".ended-{number:04d}").touch()
    on_flink._check_ended("DONE", run, "host:1", "job")
    take_ownership(settings)
    with pytest.raises(EngineError, match="was stopped"):
        on_flink._check_ended("DONE", run, "host:1", "job")


_GRPC = "org.apache.beam.vendor.grpc.v1p69p0.io.grpc"
NO_POOL = f"""java.lang.RuntimeException: {_GRPC}.StatusRuntimeException: UNAVAILABLE: io exception
\tat org.apache.beam.runners.fnexecution.environment.ExternalEnvironmentFactory.createEnvironment(E.java:1)
\t... 3 more
Caused by: {_GRPC}.StatusRuntimeException: UNAVAILABLE: io exception
\tat {_GRPC}.stub.ClientCalls.blockingUnaryCall(ClientCalls.java:268)
"""
REFUSED = f"""Caused by: {_GRPC}.netty.AbstractChannel$AnnotatedConnectException: refused: /10.0.0.7:1
Caused by: java.net.ConnectException: Connection refused
"""
NO_SLOT = """org.apache.flink.runtime.JobException: Recovery is suppressed by NoRestartBackoffTimeStrategy
Caused by: org.apache.flink.runtime.jobmanager.scheduler.NoResourceAvailableException: Could not acquire
"""


@pytest.mark.parametrize(
    ("traces", "cause"),
    [
        ([], "a Flink worker or task has died"),
        (["java.lang.RuntimeException: NoResourceAvailableException: out of memory\n"], "has died"),
        # The trace has a connection error (`ConnectException`), but no failed call to the pool of workers.
        ([REFUSED], "has died"),
        # A call to the pool of workers failed, but the trace has no connection error (`ConnectException`).
        ([NO_POOL], "has died"),
        ([NO_POOL + REFUSED], "cannot reach a pool of workers at pool:50000: .*--port 50000"),
        ([REFUSED, NO_POOL + "Caused by: java.net.UnknownHostException: pool: unknown\n"], "cannot reach"),
        ([NO_SLOT], "not enough free task slots"),
    ],
)
def test_the_cause_of_a_failure_is_read_from_flinks_exceptions(
    traces: list[str], cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newest, *others = traces or [""]
    entry = {"stacktrace": newest, "concurrentExceptions": [{"stacktrace": other} for other in others]}
    answers = {
        "/jobs/overview": {"jobs": [{"jid": job, "name": job, "state": ""} for job in ("mine", "other")]},
        "/jobs/mine/exceptions": {"exceptionHistory": {"entries": [entry] if traces else []}},
    }
    monkeypatch.setattr(flink, "ask", lambda master, path: answers[path])
    assert re.search(cause, on_flink._cause(FlinkSettings("host:1", "pool:50000"), "mine"))


def test_flink_failure_cause_is_general_if_no_cluster_answers() -> None:
    assert on_flink._cause(FlinkSettings("127.0.0.1:1"), "mine") == "a Flink worker or task has died"
    assert on_flink._cause(FlinkSettings(), "mine") == "a Flink worker or task has died"


@pytest.mark.parametrize("name", ["statecast-mine", "statecast-others"])
def test_only_running_flink_jobs_of_the_given_name_are_cancelled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, cancelled = Cluster(monkeypatch), []
    cluster.answer = {"1": (name, "RUNNING"), "2": ("statecast-mine", "FAILED")}

    def cancel(master: str, job: str) -> None:
        assert cluster.answer is not None
        cancelled.append(job)
        cluster.answer[job] = (name, "CANCELED")

    monkeypatch.setattr(flink, "cancel", cancel)
    on_flink._cancel("host:1", "statecast-mine")
    assert cancelled == (["1"] if name == "statecast-mine" else [])
    cluster.answer = None
    on_flink._cancel("host:1", "statecast-mine")


def test_read_owner_returns_the_run_that_owns_an_output(tmp_path: Path) -> None:
    assert read_owner(tmp_path) is None
    take_ownership(StepSettings("a", b"", 2, 1, tmp_path, "parquet", 1, resumed=False))
    assert read_owner(tmp_path) == "a"


def test_a_flink_error_names_a_dead_server_or_worker(tmp_path: Path) -> None:
    settings = StepSettings("a", b"", 2, 1, tmp_path, "parquet", 1, resumed=False)
    run = Run(AnyLog(), {}, settings, tmp_path / ".stop", 1.0, tmp_path)
    server = JobServer("host:1", tmp_path / "flink.log")

    def message() -> str:
        return str(on_flink._error_to_raise(run, server, FlinkSettings(), "mine", RuntimeError()))

    assert message() == f"Flink's job server has died (log: {server.log})"
    server._process = subprocess.Popen(["sleep", "60"])
    try:
        assert message() == f"a Flink worker or task has died (log: {server.log})"
    finally:
        server._process.kill()
        server._process.wait()


class Cluster:
    """A fake of the REST interface of a Flink cluster, with a clock that the test moves.

    ``answer`` maps the ids of jobs to their names and states; None makes the cluster unreachable.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.ended = False
        self.answer: dict[str, tuple[str, str]] | None = {}
        monkeypatch.setattr(flink, "jobs", self.jobs)

    def jobs(self, master: str) -> dict[str, tuple[str, str]]:
        if self.answer is None:
            raise EngineError("the cluster cannot be reached")
        return self.answer

    def look(self, watch: on_flink._Watch, after_s: float = 2.0) -> bool:
        self.now_s += after_s
        return watch.sees_end()

    def watch(self, master: str = "host:1") -> on_flink._Watch:
        return on_flink._Watch(master, "job", lambda: self.ended, lambda: self.now_s)


def test_a_job_manager_silent_for_too_long_raises_engine_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    watch = cluster.watch()
    cluster.answer = {"1": ("job", "RUNNING")}
    cluster.look(watch)
    cluster.answer = None
    cluster.look(watch)
    with pytest.raises(EngineLost, match="host:1 is lost"):
        cluster.look(watch, 10.0)


def test_engine_lost_is_raised_if_flink_loses_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    watch = cluster.watch()
    cluster.look(watch)  # the job is being submitted, so the cluster does not have it yet
    cluster.answer = {"1": ("job", "RUNNING"), "2": ("another", "FAILED")}
    cluster.look(watch)
    cluster.answer = {"2": ("another", "FAILED")}
    with pytest.raises(EngineLost, match="has lost the job"):
        cluster.look(watch)


def test_an_unreachable_embedded_flink_is_never_reported_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the master ``[local]``, Flink runs inside the process of the job server."""
    cluster = Cluster(monkeypatch)
    cluster.answer = None
    watch = cluster.watch("[local]")
    for _ in range(3):
        assert not cluster.look(watch, 100.0)


@pytest.mark.parametrize("master", ["[local]", "host:1"])
def test_ended_shards_are_seen_if_flink_is_unreachable(monkeypatch: pytest.MonkeyPatch, master: str) -> None:
    cluster = Cluster(monkeypatch)
    watch = cluster.watch(master)
    cluster.answer = {"1": ("job", "RUNNING")}
    assert not cluster.look(watch)
    cluster.ended, cluster.answer = True, None
    assert not cluster.look(watch, 0.5)
    assert cluster.look(watch)


def test_checks_for_a_jobs_end_send_few_storage_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until shard 0 has ended, a check for a job's end reads one object and does not list the folder.

    Listing the folder costs as much as twelve reads.
    """
    requests: Counter[str] = Counter()
    for name in ("_list_files", "read_bytes"):
        monkeypatch.setattr(Remote, name, _counted(requests, name))
    cluster = Cluster(monkeypatch)
    with in_memory() as store:
        settings = StepSettings("a", b"", 3, 1, store, "parquet", 1, resumed=False)
        take_ownership(settings)
        watch = on_flink._Watch("[local]", "job", partial(has_ended, settings), lambda: cluster.now_s)
        requests.clear()
        assert not any(cluster.look(watch, 0.5) for _ in range(200))
        assert requests == {"read_bytes": 100}
        for number in (2, 1, 0):
            assert not cluster.look(watch)
            mark_shard_ended(settings, number)
        requests.clear()
        assert cluster.look(watch)
        assert requests == {"read_bytes": 1, "_list_files": 1}


def _counted(requests: Counter[str], name: str) -> Any:
    request = getattr(Remote, name)

    def counted(self: Remote) -> Any:
        requests[name] += 1
        return request(self)

    return counted
