"""Tests of the lease on an output in an object store, which lets one job at a time write to the output.

A suspended job does not run for a while, so that it does not renew its lease. When it continues, another
job may own the output; it must then write nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from forecaster.components.profile import Profile
from pipelines.state import snapshot_file
from pipelines.state.snapshot_file import write_shard
from pipelines.storage import Remote, lease, store_of, write_text
from pipelines.workers.numbers_publisher import NumbersPublisher
from pipelines.workers.ownership import WriteGuard, is_owned_by_another_run, read_owner, take_ownership
from pipelines.workers.shard_output import ShardOutput
from pipelines.workers.snapshot_writer import SnapshotWriter
from pipelines.workers.step_settings import StepSettings
from schemas.errors import OutputError
from tests.shards import shards_after_five_windows
from tests.stores import keys


def test_the_error_for_a_second_job_names_the_owner_of_the_lease(s3: Remote) -> None:
    line = r"another job, process \d+ on .+ since .+ UTC .*, is writing here: wait for its end"
    with store_of(s3).locked() as check:
        check()
        with pytest.raises(OutputError, match=line), store_of(s3).locked():
            pass
    with store_of(s3).locked():
        assert keys(s3) == [".lock-000002"]


def test_a_failed_job_releases_its_lease_on_a_store(s3: Remote) -> None:
    with pytest.raises(ZeroDivisionError), store_of(s3).locked():
        raise ZeroDivisionError
    with store_of(s3).locked():
        pass


def _check_for_a_minute(*checks: Callable[[], None]) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        for check in checks:
            check()


def write_lock_file_4(s3: Remote, **changes: Any) -> None:
    """Write lock file number 4 with the identity of this process, but with the fields in ``changes``."""
    write_text(s3 / ".lock-000004", json.dumps(json.loads(lease._identity()) | changes))


def test_lease_of_a_dead_local_job_is_taken_over(s3: Remote) -> None:
    write_lock_file_4(s3, started_after_boot_s=-9.0)
    with store_of(s3).locked():
        assert keys(s3) == [".lock-000005"]


def test_an_unrenewed_lease_of_another_machine_holds_until_expiry(
    s3: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock_file_4(s3, machine="another", host="far", pid=7)
    with (
        pytest.raises(OutputError, match=r"process 7 on far since .* UTC .if that has died: for"),
        store_of(s3).locked(),
    ):
        pass
    monkeypatch.setattr(lease, "LAPSES_S", -1.0)
    with store_of(s3).locked():
        assert keys(s3) == [".lock-000005"]


def test_a_job_that_lost_its_lease_raises_an_error(s3: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.01)
    with store_of(s3).locked() as check:
        monkeypatch.setattr(lease, "_is_dead", lambda identity: True)
        with store_of(s3).locked() as other, pytest.raises(OutputError, match="another job has taken over"):
            _check_for_a_minute(check, other)
    assert keys(s3) == [".lock-000002"]


def test_a_lease_refuses_one_of_two_simultaneous_jobs(s3: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    look = lease._list_locks

    def look_before_another_job_locks(folder: Remote) -> tuple[float, list[Remote]]:
        listing = look(folder)
        (folder / ".lock-000001").create(b"{}")
        return listing

    monkeypatch.setattr(lease, "_list_locks", look_before_another_job_locks)
    with pytest.raises(OutputError, match="another job has just begun to write here"), store_of(s3).locked():
        pass


def test_a_job_whose_listing_misses_a_lock_file_is_refused(
    s3: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock_file_4(s3)  # as if the lock files 1 to 3 had existed earlier and had been deleted
    monkeypatch.setattr(lease, "_list_locks", lambda folder: (0.0, []))
    with pytest.raises(OutputError, match="another job has just begun to write here"), store_of(s3).locked():
        pass


def test_a_store_that_always_overwrites_objects_is_refused(
    s3: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease needs a conditional PUT, which fails if the object exists."""
    monkeypatch.setattr(Remote, "create", lambda self, data: (self.write_bytes(data), True)[1])
    with pytest.raises(OutputError, match="the store has no conditional PUT"), store_of(s3).locked():
        pass


def run_in(folder: Remote, job: str) -> StepSettings:
    """Return the settings of a run of ``job`` that writes into ``folder``."""
    return StepSettings(job, b"", 1, 1, folder, "parquet", 1, resumed=False)


def test_a_suspended_job_cannot_take_ownership_from_its_successor(
    s3: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_is_dead", lambda identity: True)
    with store_of(s3).locked() as suspended:

        def confirm_and_sleep() -> None:
            suspended.confirm()
            if read_owner(s3) is None:  # another job becomes the owner between the check and the write
                with store_of(s3).locked() as successor:
                    take_ownership(run_in(s3, "successor"), successor.confirm)

        with pytest.raises(OutputError, match="another job has taken over this output, because"):
            take_ownership(run_in(s3, "suspended"), confirm_and_sleep)
    assert read_owner(s3) == "successor"


def test_a_suspended_job_does_not_overwrite_newer_snapshots(s3: Remote) -> None:
    folder = s3 / "state"
    (start,), (newer,), (late,) = (shards_after_five_windows(1, closed) for closed in (2, 4, 3))
    write_shard(folder, start)
    first, second = run_in(s3, "first"), run_in(s3, "second")
    take_ownership(first)
    suspended = snapshot_file.owned(folder, 0, 1)

    def check_and_sleep() -> bool:
        is_ours = not is_owned_by_another_run(first)
        if is_ours:  # another job becomes the owner between the check and the write
            take_ownership(second)
            file = snapshot_file.owned(folder, 0, 1)
            assert write_shard(folder, newer, lambda: not is_owned_by_another_run(second), file)
        return is_ours

    assert not write_shard(folder, late, check_and_sleep, suspended)
    assert snapshot_file.read_shard(folder, 0, 1).closed_through == newer.closed_through


def snapshot_writer(settings: StepSettings) -> SnapshotWriter:
    guard = WriteGuard(settings)
    output = ShardOutput(settings, 0, guard)
    publisher = NumbersPublisher(settings.output, lambda version: Profile())
    return SnapshotWriter(settings, 0, output, publisher, guard)


@pytest.mark.parametrize("shard", range(2))
def test_a_suspended_job_cannot_overwrite_a_snapshot_of_its_successor(s3: Remote, shard: int) -> None:
    (start,), late = (
        shards_after_five_windows(1, 2),
        (*shards_after_five_windows(1, 2), *shards_after_five_windows(1, 3))[shard],
    )
    write_shard(s3 / "state", start)
    take_ownership(run_in(s3, "first"))
    snapshot_writer(run_in(s3, "first")).take_over()
    suspended = snapshot_file.owned(s3 / "state", 0, 1)
    take_ownership(run_in(s3, "second"))
    snapshot_writer(run_in(s3, "second")).take_over()
    checks = iter([True, False])  # the job owns its output at its first check, but not at its second check
    assert not write_shard(s3 / "state", late, lambda: next(checks), suspended)
    assert snapshot_file.read_shard(s3 / "state", 0, 1).closed_through == start.closed_through


def test_a_taken_over_snapshot_keeps_its_first_write_time(s3: Remote) -> None:
    write_shard(s3 / "state", shards_after_five_windows(1, 2)[0])
    written_ns = []
    for job in ("first", "second", "third"):
        take_ownership(run_in(s3, job))
        written_ns.append(snapshot_writer(run_in(s3, job)).take_over()[1])
        time.sleep(1.1)  # wait, because the store rounds modification times to seconds
    assert len(set(written_ns)) == 1
