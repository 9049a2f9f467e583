"""Read the model changes of a job in its workers, and warm up the next model version in each shard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress

import numpy as np

from forecaster.components.profile import Profile
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Shard
from forecaster.state import State
from forecaster.stepping.rewarming import Warming, rewarm
from pipelines.sources.model_changes import JOURNAL, model_changes, model_of_run, read_changes
from pipelines.workers.process import lower_priority_of_thread
from pipelines.workers.step_settings import StepSettings, forecaster_of
from pipelines.workers.worker_thread import WorkerThread
from schemas.errors import DataError

_LOOK_EVERY_S = 0.005
_LONGEST_PAUSE_S = 0.25  # longest pause of the warming thread while the threads that forecast are busy


class WarmingTask:
    """Steps a new model version, in the warming thread, through copied values of a shard's ring.

    The thread of the shard ends the task early with `take_over`.

    Args:
        warming: the warming of a shard.
        pause: called before each call of the network.
    """

    def __init__(self, warming: Warming, pause: Callable[[], None]) -> None:
        self._warming, self._pause = warming, pause
        self._lock = threading.Lock()
        self._is_taken_over = False

    def run(self) -> None:
        """Step the new version through the values copied from the ring, until none is left.

        A call of `take_over` ends the stepping earlier.
        """
        while True:
            self._pause()
            with self._lock:
                if self._is_taken_over or not self._warming.step():
                    return

    def take_over(self) -> None:
        """Make `run` return after its current network call, and wait until this call has ended.

        The caller then steps the new version through the values that `run` has not reached.
        """
        self._is_taken_over = True
        with self._lock:
            pass


class WarmingThread:
    """The thread that warms up states; it waits while the threads that forecast are busy.

    The thread has a lower priority in the operating system, and pauses while the other threads are busy. So
    the warming delays a window by at most one call of the network. A pause is short, so the warming makes
    progress even on a busy machine.

    Args:
        is_busy: returns whether a window is being stepped, or its forecasts are being written.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._thread = WorkerThread("warming")
        self._thread.put(lower_priority_of_thread)
        self._is_busy = is_busy
        self._is_abandoned = False
        self.check = self._thread.check

    def start(self, warming: Warming) -> tuple[WarmingTask, Future[None]]:
        """Queue a task that re-warms a shard's state; return the task, and a future that ends with the task.

        Raises:
            BaseException: the error of an earlier task.
        """
        task = WarmingTask(warming, self._pause)
        return task, self._thread.put(task.run)

    def abandon(self) -> None:
        """Cancel the running task before its next network call, and skip the tasks that have not begun."""
        self._is_abandoned = True
        self._thread.abandon()

    def close(self) -> None:
        """Wait until the queued warm-ups are done, and end the thread.

        Raises:
            BaseException: the error of a task.
        """
        with suppress(CancelledError):  # raised if `abandon` ended a running task
            self._thread.close()

    def _pause(self) -> None:
        """Pause the re-warming while the threads that forecast are busy, at most a quarter of a second.

        Raises:
            CancelledError: the thread was abandoned.
        """
        until_s = time.monotonic() + _LONGEST_PAUSE_S
        while not self._is_abandoned and self._is_busy() and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
        if self._is_abandoned:
            raise CancelledError


class ShardModels:
    """Holds all model versions of a job and the shadow for one shard, and warms up the next version.

    Call all methods but `profile_of` only in the thread of the shard.

    Args:
        settings: settings of the run.
        number: number of the shard.
        thread: thread that warms up states in the background.

    Raises:
        StatecastError: the journal of model changes, or the weights of a version, cannot be read.
    """

    def __init__(self, settings: StepSettings, number: int, thread: WarmingThread) -> None:
        self._settings, self._thread = settings, thread
        self._first = forecaster_of(settings.forecaster, settings.covariates)
        has_shadow = settings.shadow and number < settings.shadow_shards
        self._shadow = model_of_run(settings.job, settings.output, settings.shadow) if has_shadow else None
        self._records = 0
        self._changes: tuple[ModelChange, ...] = ()
        self._warming: Warming | None = None
        self._repaired = set[str]()
        self._task: tuple[WarmingTask, Future[None]] | None = None
        if settings.follows:
            self._read()

    @property
    def versions(self) -> list[str]:
        """The model versions of the job, from the first to the last, without the shadow."""
        return [self._first.version, *(change.forecaster.version for change in self._changes)]

    def profile_of(self, version: str) -> Profile:
        """Return the training profile of a model version; this may be called in any thread."""
        found = (change.forecaster for change in self._changes if change.forecaster.version == version)
        return next(found, self._first).profile

    def models(self, batch: Batch | None = None) -> Models:
        """Return the job's model versions and the shard's shadow.

        First read the journal of model changes, if it has changes before ``batch`` that were not read yet.

        Raises:
            DataError: the journal lacks a change, or cannot be read.
        """
        if batch is not None and batch.changes > self._records:
            self._read()
            if batch.changes > self._records:
                raise DataError(
                    f"{self._settings.states / JOURNAL}: lacks the record of a model change: restore the file"
                )
        repair, duplicates = self._settings.repair, self._settings.duplicates
        return Models(self._first, self._changes, self._finish, self._shadow, repair, duplicates)

    def note_repaired(self, series_ids: Iterable[str]) -> None:
        """Record series with repaired values, if the next model version is already being warmed up.

        The next version may have stepped these series through the values before the repair, so it re-warms
        them when it takes over. Otherwise nothing is recorded.
        """
        if self._warming is not None:
            self._repaired.update(series_ids)

    def warm_up(self, shard: Shard) -> None:
        """Step the next model version in the background through the windows that the shard has closed.

        Call this after each block of windows, so that the next version has stepped all windows at its change.
        """
        closed = shard.closed_through
        change = None if closed is None else next((c for c in self._changes if c.window > closed), None)
        if closed is None or change is None or (self._task is not None and not self._task[1].done()):
            return
        if self._warming is None or self._warming.window != change.window:
            self._warming, self._repaired = Warming(change.forecaster, change.window), set()
        if self._warming.copy_values(shard.state, closed):
            self._task = self._thread.start(self._warming)

    def _finish(self, forecaster: Forecaster, state: State) -> State:
        """Return the state of a new model version for its first window.

        If there is a `Warming` of this version, finish it, and re-warm the series that were repaired since it
        began. Otherwise re-warm all series.
        """
        warming, task = self._warming, self._task
        self._warming = self._task = None
        if warming is None or warming.forecaster.version != forecaster.version:
            return rewarm(forecaster, state)
        if task is not None:
            task[0].take_over()
            self._thread.check()
        warm = warming.finish(state)
        repaired = [slot for slot, name in enumerate(state.series_ids) if name in self._repaired]
        if repaired:
            index = np.array(repaired, np.int64)
            warm.put(index, rewarm(forecaster, state.take(index)))
        return warm

    def _read(self) -> None:
        records = read_changes(self._settings.states)
        self._records = len(records)
        self._changes = model_changes(self._settings.job, self._settings.output, records)
