"""Tests of the lock on an output folder on a disk, which lets one job at a time write to the folder."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.storage import markers, store_of
from schemas.errors import OutputError

ROOT = Path(__file__).parents[3]

LOCKING_JOB = """
import subprocess, sys
from pathlib import Path
from pipelines.storage import store_of
with store_of(Path(sys.argv[1])).locked():
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def job_elsewhere(folder: Path) -> Iterator[int]:
    """Run a process that locks a folder and starts a program; yield the id of the locking process.

    At the end, kill the locking process, and check that the lock is free although the program still runs.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKING_JOB, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        # A program that the killed job started still runs. It must not have inherited the lock.
        with store_of(folder).locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_checking_whether_a_folder_is_writable_creates_no_folder(tmp_path: Path) -> None:
    assert store_of(tmp_path / "a" / "b").check_writable()
    assert not list(tmp_path.iterdir())


def test_preparing_an_output_folder_twice_adds_no_entries(tmp_path: Path) -> None:
    for _ in range(2):
        store_of(tmp_path / "a" / "out").prepare(("forecasts", "late"))
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir()) == ["forecasts", "late"]


@pytest.mark.parametrize("place", ["file", "file/out", "dangling", "/proc/out", "/dev/null/out"])
@pytest.mark.parametrize(
    "use",
    [
        lambda folder: store_of(folder).check_writable(),
        lambda folder: store_of(folder).prepare(),
        lambda folder: store_of(folder).locked().__enter__(),
    ],
)
def test_an_unwritable_output_folder_is_refused_in_one_line(tmp_path: Path, place: str, use: object) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert callable(use)
    with pytest.raises(OutputError, match="name another folder") as refused:
        use(tmp_path / place)
    assert "\n" not in str(refused.value)


def test_a_second_lock_in_the_same_process_is_refused(tmp_path: Path) -> None:
    refused: list[str] = []

    def lock_again() -> None:
        try:
            with store_of(tmp_path).locked():
                pass
        except OutputError as error:
            refused.append(str(error))

    with store_of(tmp_path).locked():
        lock_again()
        thread = threading.Thread(target=lock_again)
        thread.start()
        thread.join()
    assert len(refused) == 2
    assert all(
        line.startswith(f"{tmp_path}: another job, process {os.getpid()} since 20") for line in refused
    )
    lock_again()
    assert len(refused) == 2


def test_two_folders_can_be_locked_at_once(tmp_path: Path) -> None:
    with store_of(tmp_path / "a").locked(), store_of(tmp_path / "b").locked():
        pass


def test_a_folder_lock_ends_when_its_process_is_killed(tmp_path: Path) -> None:
    with (
        job_elsewhere(tmp_path) as pid,
        pytest.raises(OutputError, match=f"process {pid} since"),
        store_of(tmp_path).locked(),
    ):
        pass


def test_unlocking_removes_what_locking_created_except_nonempty_folders(tmp_path: Path) -> None:
    with store_of(tmp_path / "new").locked():
        assert (tmp_path / "new" / markers.LOCK).exists()
    assert not (tmp_path / "new").exists()
    with store_of(tmp_path / "full").locked():
        (tmp_path / "full" / "forecasts").mkdir()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["forecasts"]
    (tmp_path / "old").mkdir()
    with store_of(tmp_path / "old").locked():
        pass
    assert (tmp_path / "old").exists()


def test_an_exception_in_the_with_block_releases_the_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with store_of(tmp_path).locked():
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fail()


def test_locking_recreates_a_lock_file_deleted_after_its_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    locked_files: list[int] = []

    def flock_a_deleted_file(lock: int, operation: int) -> None:
        if not locked_files:
            # Simulate an earlier owner that deletes the lock file before this process locks the opened file.
            (tmp_path / markers.LOCK).unlink()
        locked_files.append(lock)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", flock_a_deleted_file)
    with store_of(tmp_path).locked():
        assert len(locked_files) == 2
        with pytest.raises(OutputError, match="another job"), store_of(tmp_path).locked():
            pass
