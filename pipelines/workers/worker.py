"""The shards of a job that live in this process, and their threads.

Shards are dealt to as many threads as there are cores: NumPy, Polars and torch let go of Python's lock, so
they use them all. A shard belongs to one thread, which applies its batches in the order they come in.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from pipelines.sinks.kafka import TopicWriter
from pipelines.workers.shard_worker import ShardWorker
from pipelines.workers.snapshot_queue import Turns
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker_thread import Lane

_WRITTEN_AHEAD = 4  # blocks of forecasts that wait to be written; each may be 150 MB
_AHEAD = 8  # parts of batches that wait for a thread, so that none waits for the other


class Workers:
    """The shards of one run of a job in this process.

    Args:
        settings: of the run.

    Raises:
        ConfigError: an option of its topics cannot be, or the package is missing.
        DataError: the schema registry cannot be asked.
    """

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        self._lanes = [Lane(f"shards {lane}", _AHEAD) for lane in range(max(1, settings.lanes))]
        self._writer, self._snapshots = Lane("files", _WRITTEN_AHEAD), Lane("snapshots")
        self._turns = Turns(self._call)
        self._abandoned = threading.Event()
        self._topics = None if settings.topics is None else TopicWriter(settings.topics)
        self._shards: dict[int, ShardWorker] = {}
        self._known: set[int] = set()
        self._taken: dict[int, Counts] = {}  # what `take_counts` returned last of each shard
        self._taking = threading.Lock()

    def is_new(self, number: int) -> bool:
        """Whether a shard is asked for here for the first time."""
        new = number not in self._known
        self._known.add(number)
        return new

    def put(self, number: int, batch: Batch) -> None:
        """Has a shard stepped through a batch; waits where its thread is far behind.

        Raises:
            StatecastError: what went wrong with an earlier one.
        """
        self._lane_of(number).put(lambda: self._step(number, batch))

    def take_counts(self, number: int) -> tuple[Counts, Counts]:
        """Return the counts of a shard at the previous call, or when it was opened, and now."""
        with self._taking:
            if number not in self._shards:
                return Counts(), Counts()
            before, after = self._taken[number], self._shards[number].shard.counts
            self._taken[number] = after
            return before, after

    def wait(self) -> None:
        """Until every batch has been applied, and what came of it written.

        Raises:
            StatecastError: what went wrong with one.
        """
        for lane in (*self._lanes, self._writer):
            lane.wait()

    def abandon(self) -> None:
        """Leaves undone what has not begun, be it the next block of a batch."""
        self._abandoned.set()
        for lane in (*self._lanes, self._writer, self._snapshots):
            lane.abandon()

    def close(self) -> None:
        """Ends the threads, once all is done and the last snapshots are written.

        Raises:
            StatecastError: what went wrong.
        """
        failed: list[BaseException] = []
        lanes = (*self._lanes, self._writer, self._snapshots)
        waits, closes = [lane.wait for lane in self._lanes], [lane.close for lane in lanes]
        for end in (*waits, self._turns.close, *closes):
            try:
                end()
            except BaseException as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _lane_of(self, number: int) -> Lane:
        return self._lanes[number % len(self._lanes)]

    def _call(self, number: int) -> bool:
        """Tells a shard to take its turn; where its lane is full, it does so after its next batch."""
        return self._lane_of(number).offer(self._shards[number].take_turn)

    def _step(self, number: int, batch: Batch) -> None:
        if number not in self._shards:
            opened = ShardWorker(
                self.settings,
                number,
                self._writer,
                self._snapshots,
                self._turns,
                self._abandoned,
                self._topics,
            )
            with self._taking:
                self._taken[number] = opened.shard.counts
                self._shards[number] = opened
        self._shards[number].step(batch)


_of_jobs: dict[str, Workers] = {}
_making = threading.Lock()


def of_job(settings: StepSettings) -> Workers:
    """The workers of a run of a job in this process, made when first asked for."""
    with _making:
        if settings.job not in _of_jobs:
            _of_jobs[settings.job] = Workers(settings)
        return _of_jobs[settings.job]


def end_job(job: str, *, abandon: bool = False) -> None:
    """Closes the workers of a run of a job, if there are any in this process.

    Args:
        job: `StepSettings.job`.
        abandon: leave undone what has not begun, and say nothing of what went wrong.

    Raises:
        StatecastError: what went wrong.
    """
    with _making:
        workers = _of_jobs.pop(job, None)
    if workers is None:
        return
    if not abandon:
        workers.close()
        return
    workers.abandon()
    with suppress(Exception):
        workers.close()
