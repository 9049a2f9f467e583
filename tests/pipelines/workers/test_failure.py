"""Tests of errors of workers, which are stored in a file and reported by the job."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pipelines.workers.failure import clear_worker_errors, error_to_report, store_worker_error
from schemas.errors import DataError, EngineError, ModelError, OutputError, StatecastError

TRACEBACK = RuntimeError("Traceback (most recent call last):\n  File x\nValueError: wrong\n\n")


@pytest.mark.parametrize("kind", [DataError, ModelError, OutputError, EngineError, StatecastError])
def test_a_stored_worker_error_is_read_back_with_its_class(
    tmp_path: Path, kind: type[StatecastError]
) -> None:
    with pytest.raises(kind), store_worker_error(tmp_path):
        raise kind("bad.csv: no column 'été'")
    found = error_to_report(tmp_path, TRACEBACK)
    assert type(found) is kind
    assert str(found) == "bad.csv: no column 'été'"
    assert found.exit_code == kind("").exit_code


def test_without_statecast_error_the_last_exception_line_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store_worker_error(tmp_path):
        raise ZeroDivisionError
    found = error_to_report(tmp_path, TRACEBACK)
    assert type(found) is EngineError
    assert str(found) == "the pipeline failed: ValueError: wrong"
    assert str(error_to_report(tmp_path, RuntimeError())) == "the pipeline failed: RuntimeError"


def test_a_raised_statecast_error_outranks_a_stored_worker_error(tmp_path: Path) -> None:
    with pytest.raises(DataError), store_worker_error(tmp_path):
        raise DataError("stored by a worker")
    error = OutputError("raised here")
    assert error_to_report(tmp_path, error) is error


def test_clear_worker_errors_removes_the_error_of_an_earlier_run(tmp_path: Path) -> None:
    clear_worker_errors(tmp_path)
    with pytest.raises(DataError), store_worker_error(tmp_path):
        raise DataError("error of an earlier run")
    clear_worker_errors(tmp_path)
    assert os.listdir(tmp_path) == []
    assert type(error_to_report(tmp_path, TRACEBACK)) is EngineError


def test_a_half_written_worker_error_file_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(DataError), store_worker_error(tmp_path):
        raise DataError("the file is broken")
    (left,) = tmp_path.iterdir()
    left.write_text('{"kind": "Data')
    assert type(error_to_report(tmp_path, TRACEBACK)) is EngineError


def test_the_first_of_several_worker_errors_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (9, 1, 5):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        with pytest.raises(DataError), store_worker_error(tmp_path):
            raise DataError(f"worker {pid}")
        # The files need different modification times, which advance only every few milliseconds.
        time.sleep(0.01)
    assert str(error_to_report(tmp_path, TRACEBACK)) == "worker 9"


def test_store_worker_error_writes_no_file_without_an_error(tmp_path: Path) -> None:
    with store_worker_error(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_full_disk_is_reported_even_without_an_error_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OutputError), store_worker_error(tmp_path):
        raise OutputError("out/a: cannot be written")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    found = error_to_report(tmp_path, TRACEBACK)
    assert type(found) is OutputError
    assert str(found) == f"{tmp_path}: the disk is full: make room, and start it again"


def test_an_engine_error_is_reported_by_its_first_line(tmp_path: Path) -> None:
    engine_error = RuntimeError("job-001 failed: nothing in progress\nstage-000 watermark in +inf\n")
    assert (
        str(error_to_report(tmp_path, engine_error))
        == "the pipeline failed: job-001 failed: nothing in progress"
    )
