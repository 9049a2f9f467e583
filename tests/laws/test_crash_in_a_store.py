"""Law: a stream can be killed at any change to its object store and resumed without loss."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import PARTS, read_forecasts, read_quarantine
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from pipelines.storage import Location, Remote, lease
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, forecaster, rows_of, scales
from tests.logs import LogOutputs, half_of, job_of, small_log
from tests.simulated_kills import KillableProcess, Killed
from tests.stores import Objects, forecasts_written, in_memory, objects, put_back

_CHANGES = "write_bytes", "create", "copy", "unlink", "remove_below"
# Comparisons leave out objects with these path prefixes, because they do not influence a resumed run.
_IGNORED = ".numbers", ".probe", ".lock", ".ended", ".run"
_SLOW_S = 0.03  # each write of an output is delayed by 0.03 s; a snapshot must wait for the write


class PausedStream:
    """A stream that runs in a thread and pauses after it has made ``changes`` changes to the store.

    Only changes after the stream has become the owner of its output folder are counted. A change that another
    thread of the stream begins during the pause is not made, neither then nor later.
    """

    def __init__(self, run: Callable[[], object], changes: int) -> None:
        self.left, self.owns_output, self.lock = changes, False, threading.RLock()
        self.paused, self.resumed = threading.Event(), threading.Event()
        self.others = frozenset(threading.enumerate())
        self.thread = threading.Thread(target=self._run, args=[run], daemon=True)
        self.threads = frozenset[threading.Thread]()

    def run_until_paused(self) -> None:
        """Start the stream; return when the stream is paused or has ended."""
        self.thread.start()
        self.paused.wait()
        self.threads = frozenset(threading.enumerate()) - self.others

    def run_to_the_end(self) -> None:
        """Continue the paused stream, and return when it has ended."""
        self.resumed.set()
        self.thread.join()

    def wrap(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls ``change``, and pauses once ``changes`` changes have been counted.

        If another thread of this stream begins a call during the pause, the call ends after the pause and
        returns None without a call of ``change``. In the threads of other streams, the function never pauses.
        """

        def wrapped(*given: Any, **options: Any) -> Any:
            thread = threading.current_thread()
            if thread in self.others or (self.threads and thread not in self.threads):
                return change(*given, **options)
            is_resumed = self.resumed.is_set()
            with self.lock:
                if not self.paused.is_set():
                    done = change(*given, **options)
                    self.owns_output |= given[0].name == ".run"
                    self.left -= self.owns_output
                    if self.left < 0:
                        self.paused.set()
                        self.resumed.wait()
                    return done
            return change(*given, **options) if is_resumed else None

        return wrapped

    def _run(self, run: Callable[[], object]) -> None:
        with suppress(Exception):  # ignore the error that the stream raises if another run owns its output
            run()
        self.paused.set()


def states_after_requests(job: StreamJob, store: Remote) -> list[Objects]:
    """Run a stream, and return the contents of the store after each request that changed them.

    The paths in `_IGNORED` are left out.
    """
    left: list[Objects] = []
    # The lock is reentrant, because a method that changes the store may call another such method.
    lock = threading.RLock()

    def recorded(change: Any) -> Any:
        def wrapped(*given: Any, **options: Any) -> Any:
            if given[0].parent.name in PARTS:
                time.sleep(_SLOW_S)
            with lock:
                done = change(*given, **options)
                now = objects(store, but=_IGNORED)
                if not left or now != left[-1]:
                    left.append(now)
                return done

        return wrapped

    with ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, recorded(getattr(Remote, name))))
        run_stream(job)
    return left


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> LogOutputs:
    """Return the outputs of a stream that reads the log of `small_log` without a crash."""
    log, scale = small_log()
    output = tmp_path_factory.mktemp("uninterrupted")
    counts = run_stream(job_of(log, output)).counts
    assert counts.late
    assert counts.duplicates
    assert counts.rejected
    return LogOutputs(output, counts, scale)


def test_a_crash_after_any_store_request_changes_no_output(uninterrupted: LogOutputs) -> None:
    log, _ = small_log()
    with in_memory() as store:
        run_stream(job_of(log, store, stop=half_of(log)))
        # Run again with 2 shards: the run first replaces the state table of 1 shard by one of 2 shards.
        for left in states_after_requests(job_of(log, store, shards=2), store):
            put_back(store, left)
            ended = run_stream(job_of(log, store, shards=2, windows_per_step=3))
            uninterrupted.assert_same(store, ended.counts)


@settings(max_examples=4)
@given(changes=st.integers(1, 16))
def test_a_run_changes_no_object_after_losing_its_output(uninterrupted: LogOutputs, changes: int) -> None:
    log, _ = small_log()
    with in_memory() as store, ExitStack() as stack:
        run_stream(job_of(log, store, stop=half_of(log)))
        paused = PausedStream(lambda: run_stream(job_of(log, store, windows_per_step=3)), changes)
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, paused.wrap(getattr(Remote, name))))
        stack.enter_context(patch.object(lease, "_is_dead", lambda owner: True))
        paused.run_until_paused()
        ended = run_stream(job_of(log, store))
        before = objects(store, but=_IGNORED)
        paused.run_to_the_end()
        assert objects(store, but=_IGNORED) == before
        uninterrupted.assert_same(store, ended.counts)


def run_until_killed(job: StreamJob, process: KillableProcess) -> Any:
    """Run a stream that may be killed at a change to the store; return its counts, or None after a kill.

    Returns:
        The counts of the stream, or None if it was killed.
    """
    with ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, process.wrap(getattr(Remote, name))))
        # A run may take over an output with an unexpired lease only if the earlier owner's process is dead.
        # All runs of this test are in one process, so let every owner count as dead.
        stack.enter_context(patch.object(lease, "_is_dead", lambda owner: True))
        with suppress(Killed):
            return run_stream(job).counts
    return None


@settings(max_examples=3)
@example(kills=[(22, False, 1)], shards=1)  # this kill is before the first snapshot with a closed window
@given(
    kills=st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.integers(1, 9)), min_size=1, max_size=4),
    shards=st.integers(1, 3),
)
def test_a_stream_killed_at_store_changes_resumes_without_loss(
    small_fleet: Windows, kills: list[tuple[int, bool, int]], shards: int
) -> None:
    with tempfile.TemporaryDirectory() as name, in_memory() as store:
        path, clean = Path(name) / "rows.csv", Path(name) / "clean"
        rows = rows_of(small_fleet).head(200)
        bad = rows.head(3).with_columns(value=float("nan"))
        pl.concat([rows.head(100), bad, rows]).sample(fraction=1, shuffle=True, seed=1).write_csv(path)

        def job(output: Location) -> StreamJob:
            source = ReplaySource(
                (str(path),), Input(Columns()), HOUR, windows_per_step=5, manifest_folder=output / "state"
            )
            return StreamJob(
                forecaster(), source, output, shards=shards, windows_per_step=4, resume=True,
                snapshot_every_s=0.0, runner="in-process",
            )  # fmt: skip

        killed_threads = frozenset[threading.Thread]()
        for left, after, windows_per_step in kills:
            run_until_killed(
                replace(job(store), windows_per_step=windows_per_step),
                KillableProcess(left, after, killed_threads),
            )
            killed_threads = frozenset(threading.enumerate()) - {threading.current_thread()}
        ended = run_until_killed(job(store), KillableProcess(10**9, True, killed_threads))

        assert ended == run_stream(job(clean)).counts
        assert_same_frames(read_forecasts(clean), read_forecasts(store), scales(small_fleet))
        assert read_quarantine(clean).equals(read_quarantine(store))
        # No forecast may be in two objects: a resumed run removes objects that are newer than its snapshot.
        assert forecasts_written(store) == len(read_forecasts(clean))
