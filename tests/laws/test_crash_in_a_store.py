"""Law: a stream into an object store that dies at any of its requests ends as if it had not."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import PARTS, read_forecasts, read_quarantine
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from pipelines.storage import Location, Remote, lease
from tests.fleets import HOUR, forecaster, rows_of, scales
from tests.logs import Left, half_of, job_of, small_log
from tests.mortals import Killed, Mortal
from tests.same import assert_same_frames
from tests.stores import Objects, forecasts_written, in_memory, objects, put_back

_CHANGES = "write_bytes", "create", "copy", "unlink", "remove_below"
_NO_MATTER = ".numbers", ".probe", ".lock", ".ended", ".run"  # to who goes on
_SLOW_S = 0.03  # of what a snapshot counts: one that does not wait for it is there before it


class Sleeper:
    """A stream that sleeps after one of its changes to an output that it has taken over.

    Changes of its other threads that were under way meanwhile never come to the store.
    """

    def __init__(self, run: Callable[[], object], changes: int) -> None:
        self.left, self.is_over, self.lock = changes, False, threading.RLock()
        self.fell, self.woke = threading.Event(), threading.Event()
        self.others = frozenset(threading.enumerate())
        self.thread = threading.Thread(target=self._live, args=[run], daemon=True)
        self.threads = frozenset[threading.Thread]()

    def fall_asleep(self) -> None:
        """It begins, and sleeps; or ends before."""
        self.thread.start()
        self.fell.wait()
        self.threads = frozenset(threading.enumerate()) - self.others

    def wake_up(self) -> None:
        """It goes on to its end."""
        self.woke.set()
        self.thread.join()

    def of(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """A change as anybody makes it."""

        def made(*given: Any, **options: Any) -> Any:
            thread = threading.current_thread()
            if thread in self.others or (self.threads and thread not in self.threads):
                return change(*given, **options)
            is_awake = self.woke.is_set()
            with self.lock:
                if not self.fell.is_set():
                    done = change(*given, **options)
                    self.is_over |= given[0].name == ".run"
                    self.left -= self.is_over
                    if self.left < 0:
                        self.fell.set()
                        self.woke.wait()
                    return done
            return change(*given, **options) if is_awake else None

        return made

    def _live(self, run: Callable[[], object]) -> None:
        with suppress(Exception):  # whatever it finds when it wakes
            run()
        self.fell.set()


def left_by(job: StreamJob, store: Remote) -> list[Objects]:
    """What the requests of a stream left in the store, those aside that are of no matter to the next."""
    left: list[Objects] = []
    lock = threading.RLock()  # a change may be made of others

    def kept(change: Any) -> Any:
        def made(*given: Any, **options: Any) -> Any:
            if given[0].parent.name in PARTS:
                time.sleep(_SLOW_S)
            with lock:
                done = change(*given, **options)
                now = objects(store, but=_NO_MATTER)
                if not left or now != left[-1]:
                    left.append(now)
                return done

        return made

    with ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, kept(getattr(Remote, name))))
        run_stream(job)
    return left


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A small log as it is read by a stream that nothing happens to."""
    log, scale = small_log()
    output = tmp_path_factory.mktemp("whole")
    counts = run_stream(job_of(log, output)).counts
    assert counts.late
    assert counts.duplicates
    assert counts.rejected
    return Left(output, counts, scale)


def test_a_stream_goes_on_from_what_each_of_its_requests_has_left(whole: Left) -> None:
    log, _ = small_log()
    with in_memory() as store:
        run_stream(job_of(log, store, stop=half_of(log)))
        # it begins with a table cut anew, which takes the old one's place
        for left in left_by(job_of(log, store, shards=2), store):
            put_back(store, left)
            ended = run_stream(job_of(log, store, shards=2, windows_per_step=3))
            whole.assert_same(store, ended.counts)


@settings(max_examples=4)
@given(changes=st.integers(1, 16))
def test_a_stream_that_slept_while_another_took_over_changes_nothing(whole: Left, changes: int) -> None:
    log, _ = small_log()
    with in_memory() as store, ExitStack() as stack:
        run_stream(job_of(log, store, stop=half_of(log)))
        sleeper = Sleeper(lambda: run_stream(job_of(log, store, windows_per_step=3)), changes)
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, sleeper.of(getattr(Remote, name))))
        stack.enter_context(patch.object(lease, "_is_dead", lambda told: True))
        sleeper.fall_asleep()
        ended = run_stream(job_of(log, store))
        before = objects(store, but=_NO_MATTER)
        sleeper.wake_up()
        assert objects(store, but=_NO_MATTER) == before
        whole.assert_same(store, ended.counts)


def lived(job: StreamJob, mortal: Mortal) -> Any:
    """One life of a stream; what it ends with, or None where it died."""
    with ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, mortal.of(getattr(Remote, name))))
        # Those before it are dead, though they were of this process.
        stack.enter_context(patch.object(lease, "_is_dead", lambda told: True))
        with suppress(Killed):
            return run_stream(job).counts
    return None


@settings(max_examples=3)
@given(
    kills=st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.integers(1, 9)), min_size=1, max_size=4),
    shards=st.integers(1, 3),
)
def test_a_stream_that_dies_at_any_request_ends_as_the_one_that_did_not(
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

        ghosts = frozenset[threading.Thread]()
        for left, after, windows_per_step in kills:
            lived(replace(job(store), windows_per_step=windows_per_step), Mortal(left, after, ghosts))
            ghosts = frozenset(threading.enumerate()) - {threading.current_thread()}
        ended = lived(job(store), Mortal(10**9, True, ghosts))

        assert ended == run_stream(job(clean)).counts
        assert_same_frames(read_forecasts(clean), read_forecasts(store), scales(small_fleet))
        assert read_quarantine(clean).equals(read_quarantine(store))
        # no forecast in two objects: what a life wrote after its last snapshot is gone
        assert forecasts_written(store) == len(read_forecasts(clean))
