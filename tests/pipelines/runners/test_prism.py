"""Tests of Prism as a process of a job: its start, its errors, and its end with the job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from forecaster.process_start import started_s
from pipelines.runners import engine
from pipelines.runners.engine import end_orphans
from pipelines.runners.prism import PrismServer, prism_options
from schemas.errors import EngineError
from tests.forked import ForkedProcess
from tests.pipelines.runners.binaries import current_prism, without_prism_and_go, write_script

TIMEOUT_S = 600.0  # a long time limit, because the machine may run many other processes

# This program stands for a job: it starts Prism, prints the process id of Prism, and sleeps for 10 min.
# The tests end the program before that.
JOB = """
import signal, sys, time
from pathlib import Path
from pipelines.runners.prism import PrismServer

try:
    with PrismServer(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", server.pid, flush=True)
"""


@pytest.fixture
def job(own_cache: Path, tmp_path: Path) -> Iterator[ForkedProcess]:
    with ForkedProcess(["-c", JOB, str(tmp_path / "prism.log")], stdout=subprocess.PIPE) as job:
        yield job
        if job.poll() is None:
            job.kill()


def read_prism_pid(job: ForkedProcess) -> int:
    assert job.stdout is not None
    return int(job.stdout.readline())


def has_ended(pid: int, within_s: float = TIMEOUT_S) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if started_s(pid) is None:
            return True
        time.sleep(0.05)
    return False


def test_the_error_for_missing_prism_names_the_doctor_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    with pytest.raises(EngineError, match="run `statecast doctor --fix`"), PrismServer(tmp_path / "log"):
        pass


def test_a_prism_start_error_contains_exit_code_and_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    monkeypatch.setenv(
        "STATECAST_PRISM", str(write_script(tmp_path / "prism", current_prism("echo no luck today; exit 3")))
    )
    with (
        pytest.raises(EngineError, match="exit code 3: no luck today"),
        PrismServer(tmp_path / "logs" / "prism.log"),
    ):
        pass


def test_another_process_on_the_port_is_not_taken_for_prism(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as stranger, socket.socket() as probe:
        taken = stranger.getsockname()[1]
        probe.bind(("", 0))
        free = probe.getsockname()[1]
        probe.close()
        ports = [taken, free]
        monkeypatch.setattr(engine, "free_port", lambda: ports.pop(0))
        with PrismServer(tmp_path / "prism.log") as server:
            assert server.endpoint == f"localhost:{free}"
            assert server.pid is not None
        ports += [taken] * 3
        with (
            pytest.raises(EngineError, match=f"another process uses its port {taken}"),
            PrismServer(tmp_path / "prism.log"),
        ):
            pass
    assert list((own_cache / "run").iterdir()) == []


def test_leaving_the_with_block_ends_prism_and_its_watcher(own_cache: Path, tmp_path: Path) -> None:
    with PrismServer(tmp_path / "prism.log") as server:
        host, _, port = server.endpoint.rpartition(":")
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
        pid, watcher = server.pid, server._watcher
        assert pid is not None
        assert watcher is not None
        assert [path.name for path in (own_cache / "run").iterdir()] == [f"engine-{pid}.json"]
    assert server.pid is None
    assert has_ended(pid)
    assert has_ended(watcher.pid)
    assert list((own_cache / "run").iterdir()) == []


def test_ctrl_c_reaches_the_job_but_not_prism(job: ForkedProcess) -> None:
    pid = read_prism_pid(job)
    assert os.getpgid(pid) != os.getpgid(job.pid)
    os.killpg(job.pid, signal.SIGINT)
    assert job.stdout is not None
    assert job.stdout.readline().startswith("interrupted")
    assert job.wait(timeout=TIMEOUT_S) == 0
    assert has_ended(pid)


def test_prism_ends_when_its_job_is_killed(job: ForkedProcess, own_cache: Path) -> None:
    pid = read_prism_pid(job)
    job.kill()
    job.wait(timeout=TIMEOUT_S)
    assert has_ended(pid)


def test_end_orphans_ends_the_prism_of_a_killed_job(job: ForkedProcess, own_cache: Path) -> None:
    """The test also kills the job's watcher process, which would otherwise end Prism."""
    pid = read_prism_pid(job)
    for child in psutil.Process(job.pid).children():
        if child.pid != pid:
            child.kill()
    job.kill()
    job.wait(timeout=TIMEOUT_S)
    assert started_s(pid) is not None
    assert end_orphans() == [pid]
    assert has_ended(pid)
    assert list((own_cache / "run").iterdir()) == []


def test_ending_orphans_keeps_the_prism_of_a_running_job(job: ForkedProcess, own_cache: Path) -> None:
    pid = read_prism_pid(job)
    assert end_orphans() == []
    assert started_s(pid) is not None


def test_end_orphans_spares_processes_that_reuse_a_recorded_pid(own_cache: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        record = own_cache / "run" / f"engine-{stranger.pid}.json"
        record.parent.mkdir(parents=True)
        record.write_text(f'{{"engine": [{stranger.pid}, 1.0], "owner": [{2**22 + 1}, 1.0]}}')
        assert end_orphans() == []
        assert stranger.poll() is None
        assert not record.exists()
        stranger.kill()


def test_two_pipelines_run_one_after_the_other_on_one_prism(own_cache: Path, tmp_path: Path) -> None:
    job = """
        import sys
        from pathlib import Path
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from pipelines.runners.prism import PrismServer, prism_options

        with PrismServer(Path(sys.argv[1])) as server:
            for streaming in (True, False):
                options = PipelineOptions(prism_options(server.endpoint, streaming=streaming))
                with beam.Pipeline(options=options) as p:
                    (
                        p
                        | beam.Create(list(range(10)))
                        | beam.Map(lambda n: (n % 2, n)).with_output_types(tuple[int, int])
                        | beam.CombinePerKey(sum)
                        | beam.Map(lambda kv: print(kv, flush=True)).with_output_types(None)
                    )
    """
    command = ["-c", textwrap.dedent(job), str(tmp_path / "prism.log")]
    process = ForkedProcess(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, errors = process.communicate(TIMEOUT_S)
    assert process.returncode == 0, errors
    assert sorted(printed.splitlines()) == ["(0, 20)", "(0, 20)", "(1, 25)", "(1, 25)"]


def test_jobs_on_prism_disable_the_splitting_of_bundles() -> None:
    """If Prism splits a bundle in the middle of a key, rows are lost or doubled."""
    assert "--experiments=prism_disable_sdf_split" in prism_options("localhost:1")
    assert "--streaming" not in prism_options("localhost:1", streaming=False)


def test_a_running_prism_hides_only_grpc_errors_of_threads(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def end_with(error: Exception) -> None:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail, name="read_state")
        thread.start()
        thread.join()

    with PrismServer(tmp_path / "prism.log"):
        end_with(grpc.RpcError("hung up"))
        end_with(ValueError("a mistake"))
    end_with(grpc.RpcError("another connection"))
    assert [str(ended.exc_value) for ended in raised] == ["a mistake", "another connection"]


def test_end_orphans_does_not_end_prism_after_clock_correction(
    job: ForkedProcess, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the clock is corrected, the reported times of the boot and of all process starts move with it."""
    pid, boot_s = read_prism_pid(job), psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot_s + 3)
    assert end_orphans() == []
    assert started_s(pid) is not None
