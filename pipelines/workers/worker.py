"""Distribute the shards of a job over the threads of this process.

There are as many threads as cores. NumPy, Polars and torch release Python's lock, so the threads use all
cores. A shard belongs to one thread, which applies its batches in order of arrival.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from pipelines.sinks.kafka import TopicWriter
from pipelines.workers.ownership import WriteGuard
from pipelines.workers.shard_models import ShardModels, WarmingThread
from pipelines.workers.shard_worker import ShardWorker
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker_thread import WorkerThread

_BLOCKS_AHEAD = 4  # at most this many blocks of forecasts, of up to 150 MB each, wait to be written
# at most this many batches wait for each thread
_BATCHES_AHEAD = 8


class Workers:
    """The shards of one run of a job in this process.

    Args:
        settings: settings of the run.

    Raises:
        ConfigError: an option of the topics is invalid, or a package is missing.
        DataError: the schema registry cannot be reached.
    """

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        self._threads = [
            WorkerThread(f"shards {number}", _BATCHES_AHEAD) for number in range(max(1, settings.threads))
        ]
        self._writer, self._snapshots = WorkerThread("files", _BLOCKS_AHEAD), WorkerThread("snapshots")
        forecasting = (*self._threads, self._writer)
        self._warming = WarmingThread(lambda: any(thread.is_busy for thread in forecasting))
        self._guard = WriteGuard(settings)
        self._topics = None if settings.topics is None else TopicWriter(settings.topics)
        self._shards: dict[int, ShardWorker] = {}
        self._requested: set[int] = set()
        # The counts of each shard at the last call of `take_counts`; before that, when the shard was opened.
        self._reported: dict[int, Counts] = {}
        self._counts_lock = threading.Lock()

    def is_new(self, number: int) -> bool:
        """Return whether this method is called for the shard ``number`` for the first time."""
        new = number not in self._requested
        self._requested.add(number)
        return new

    def take_counts(self) -> list[tuple[Counts, Counts]]:
        """Return for each open shard its counts of rows at the previous call, and its counts now.

        At the first call, the counts of the shard's snapshot take the place of the previous counts.
        """
        with self._counts_lock:
            counts = {number: shard.counts for number, shard in self._shards.items()}
            before, self._reported = self._reported, counts
        return [(before[number], counts[number]) for number in counts]

    def put(self, number: int, batch: Batch) -> None:
        """Queue a batch for a shard; wait while the queue of its thread is full.

        Raises:
            StatecastError: an earlier batch failed.
        """
        self._thread_of(number).put(lambda: self._step(number, batch))

    def wait(self) -> None:
        """Wait until all queued batches are applied, and their output and all requested snapshots are saved.

        Raises:
            StatecastError: a batch failed.
        """
        for thread in (*self._threads, self._writer, self._snapshots):
            thread.wait()

    def abandon(self) -> None:
        """Skip the work that has not begun, including the remaining blocks of a batch.

        From now on, no write begins. A re-warming that is running is cancelled before its next network call.
        """
        self._guard.abandon()
        for thread in (*self._threads, self._writer, self._snapshots):
            thread.abandon()
        self._warming.abandon()

    def close(self) -> None:
        """Wait for the queued work and the last snapshots; skip queued re-warming; end the threads.

        Raises:
            StatecastError: some of the work failed.
        """
        failed: list[BaseException] = []
        threads = (*self._threads, self._writer, self._snapshots)
        # Close no thread before the tasks of all threads are done, because tasks of the snapshot thread put
        # tasks into the other threads.
        # Abandon the remaining tasks of the warming thread: they prepare windows that this run will not step.
        waits, closes = [thread.wait for thread in threads], [thread.close for thread in threads]
        for end in (*waits, self._warming.abandon, *closes, self._warming.close):
            try:
                end()
            except BaseException as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _thread_of(self, number: int) -> WorkerThread:
        return self._threads[number % len(self._threads)]

    def _step(self, number: int, batch: Batch) -> None:
        if number not in self._shards:
            opened = ShardWorker(
                self.settings,
                number,
                ShardModels(self.settings, number, self._warming),
                self._thread_of(number),
                self._writer,
                self._snapshots,
                self._guard,
                self._topics,
            )
            with self._counts_lock:
                self._reported[number] = opened.counts
                self._shards[number] = opened
        self._shards[number].step(batch)


_workers_of_jobs: dict[str, Workers] = {}
_workers_lock = threading.Lock()


def workers_of_job(settings: StepSettings) -> Workers:
    """Return this process's `Workers` for a run; the first call for a run creates them."""
    with _workers_lock:
        if settings.job not in _workers_of_jobs:
            _workers_of_jobs[settings.job] = Workers(settings)
        return _workers_of_jobs[settings.job]


def end_job(job: str, *, abandon: bool = False) -> None:
    """End this process's `Workers` for a run, if there are any.

    Args:
        job: `StepSettings.job`.
        abandon: whether to skip work that has not begun, and to raise no error of the workers.

    Raises:
        StatecastError: some of the work failed.
    """
    with _workers_lock:
        workers = _workers_of_jobs.pop(job, None)
    if workers is None:
        return
    if not abandon:
        workers.close()
        return
    workers.abandon()
    with suppress(Exception):
        workers.close()
