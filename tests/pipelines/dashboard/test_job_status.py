"""Tests of `job_status`, the status of a job in the dashboard."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.dashboard.job_status import is_output, job_status
from pipelines.storage import markers
from tests.stores import in_memory


def test_in_a_store_a_job_with_recent_numbers_is_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with in_memory() as store:
        assert job_status(store).status == "absent"
        (store / markers.NUMBERS / markers.numbers_of_shard(0)).write_bytes(b"{}")
        assert job_status(store).status == "running"
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + 61)
        assert job_status(store) == ("not running", "no job is running here")
        (store / markers.ended_shard(0)).write_bytes(b"")
        assert job_status(store) == ("not running", "the job has ended")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "?"}'])
def test_a_folder_with_only_an_incomplete_lock_file_has_no_running_job(tmp_path: Path, text: str) -> None:
    """A starting job first creates an empty lock file, and then writes its process id into the file."""
    assert not is_output(tmp_path)
    (tmp_path / markers.LOCK).write_text(text)
    assert is_output(tmp_path)
    assert job_status(tmp_path) == ("not running", "no job is running here")
