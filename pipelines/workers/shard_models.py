"""Read the model changes of a job in its workers, and warm up the next version of each shard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial

from forecaster.components.profile import Profile
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Shard
from forecaster.state import State
from forecaster.stepping.rewarming import Warming, rewarm
from pipelines.sources.model_changes import JOURNAL, model_changes, model_of_run, read_changes
from pipelines.workers.step_settings import StepSettings, forecaster_of
from pipelines.workers.worker_thread import WorkerThread
from schemas.errors import DataError

_LOOK_EVERY_S = 0.005
_CATCH_UP_WINDOWS = 16  # A new version steps this many windows in a call, which costs little more than one.
# This close to its change, a new version steps each window at once, so that the change takes little time.
_LAST_WINDOWS = 3
_LONGEST_PAUSE_S = 0.25  # A pause of the warming ends after this time, even if shards still have work.


class WarmingThread:
    """The thread that warms up the states of new model versions; it pauses while shards are stepped.

    Args:
        is_stepping: returns whether a shard is being stepped.
    """

    def __init__(self, is_stepping: Callable[[], bool]) -> None:
        self._thread = WorkerThread("warming")
        self._is_stepping = is_stepping
        self._waiting, self._lock = 0, threading.Lock()
        self._is_abandoned = False
        self.put = self._thread.put

    def abandon(self) -> None:
        """End the task that is running at its next pause, and skip the tasks that have not begun."""
        self._is_abandoned = True
        self._thread.abandon()

    def close(self) -> None:
        """Wait until the tasks are done, and end the thread.

        Raises:
            BaseException: the error of a task.
        """
        with suppress(CancelledError):  # This error means that the thread was abandoned.
            self._thread.close()

    def pause(self) -> None:
        """Wait, for a quarter of a second at most, while a shard is stepped and none waits for this thread.

        Raises:
            CancelledError: the thread was abandoned.
        """
        if self._is_abandoned:
            raise CancelledError
        until_s = time.monotonic() + _LONGEST_PAUSE_S
        while not self._waiting and self._is_stepping() and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)

    def wait_for(self, result: Future[None]) -> None:
        """Wait until a task of the warming thread is done; the thread makes no pauses meanwhile.

        Raises:
            BaseException: the error of the task; `CancelledError` if the thread was abandoned.
        """
        self._wait(1)
        try:
            result.result()
        finally:
            self._wait(-1)

    def _wait(self, change: int) -> None:
        with self._lock:
            self._waiting += change


class ShardModels:
    """The model versions that step one shard: in use, next, and shadow.

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
        self._step: Future[None] | None = None
        if settings.follows:
            self._read()

    @property
    def versions(self) -> list[str]:
        """The model versions that forecast for the job, from the first to the last; without the shadow."""
        return [self._first.version, *(change.forecaster.version for change in self._changes)]

    def profile_of(self, version: str) -> Profile:
        """Return the training profile of a model version; this may be called in any thread."""
        found = (change.forecaster for change in self._changes if change.forecaster.version == version)
        return next(found, self._first).profile

    def models(self, batch: Batch | None = None) -> Models:
        """Return the model versions, including the changes that were decided before ``batch``.

        Raises:
            DataError: the journal lacks a change, or cannot be read.
        """
        if batch is not None and batch.changes > self._records:
            self._read()
            if batch.changes > self._records:
                raise DataError(
                    f"{self._settings.states / JOURNAL}: a model change is missing: restore the file"
                )
        return Models(self._first, self._changes, self._finish, self._shadow)

    def warm_up(self, shard: Shard) -> None:
        """Step the next model version through the windows that the shard has closed, in the background.

        Call this after each block of windows, so that the new version catches up until the change.
        """
        closed = shard.closed_through
        change = None if closed is None else next((c for c in self._changes if c.window > closed + 1), None)
        if closed is None or change is None or (self._step is not None and not self._step.done()):
            return
        if self._warming is None or self._warming.window != change.window:
            self._warming = Warming(change.forecaster, change.window)
        copied = self._warming.copied_through
        if (
            copied is not None
            and closed - copied < _CATCH_UP_WINDOWS
            and change.window - closed > _LAST_WINDOWS
        ):
            return
        recent = self._warming.copy_values(shard.state, closed)
        if recent is not None:
            self._step = self._thread.put(partial(self._warming.step, recent, self._thread.pause))

    def _finish(self, forecaster: Forecaster, state: State) -> State:
        """Return the state of a new model version at its change, mostly computed by the warming thread."""
        warming, step = self._warming, self._step
        self._warming = self._step = None
        if warming is None or warming.forecaster.version != forecaster.version:
            return rewarm(forecaster, state)
        if step is not None:
            self._thread.wait_for(step)
        return warming.finish(state)

    def _read(self) -> None:
        records = read_changes(self._settings.states)
        self._records = len(records)
        self._changes = model_changes(self._settings.job, self._settings.output, records)
