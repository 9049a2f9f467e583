"""Apply batches to one shard; other threads write its output and its snapshots."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from functools import partial

from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.shard import Shard, slots_of
from forecaster.stepping.rewarming import rewarm
from pipelines.sinks.kafka import TopicWriter
from pipelines.workers.numbers_publisher import NumbersPublisher, closed_us
from pipelines.workers.ownership import WriteGuard, mark_shard_ended
from pipelines.workers.shard_models import ShardModels
from pipelines.workers.shard_output import ShardOutput
from pipelines.workers.snapshot_writer import SnapshotWriter
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker_thread import WorkerThread


class ShardWorker:
    """Applies batches to one shard, in one thread; other threads write its output and its snapshots.

    Args:
        settings: settings of the run.
        number: number of the shard.
        models: the model versions of the shard.
        thread: thread that calls `step`.
        writer: thread that writes the output of all shards, in order.
        snapshots: thread that copies the shards and writes their snapshots, one shard after the other.
        guard: decides whether the run may still write.
        topics: sends output to topics; None if all output goes into files.

    Raises:
        StatecastError: the snapshot of the shard cannot be read.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        models: ShardModels,
        thread: WorkerThread,
        writer: WorkerThread,
        snapshots: WorkerThread,
        guard: WriteGuard,
        topics: TopicWriter | None = None,
    ) -> None:
        self._settings, self._guard = settings, guard
        self._thread, self._writer, self._snapshots = thread, writer, snapshots
        self._is_snapshot_requested = False
        self._models = models
        self._output = ShardOutput(settings, number, guard, topics)
        self._publisher = NumbersPublisher(settings.output, models.profile_of)
        self._snapshot_writer = SnapshotWriter(settings, number, self._output, self._publisher, guard)
        self._shard = _open_shard(settings, self._snapshot_writer, models, self._output)

    @property
    def counts(self) -> Counts:
        """The shard's counts so far; a batch changes them after its rows and after each block of windows."""
        return self._shard.counts

    def step(self, batch: Batch) -> None:
        """Apply a batch; queue the writing of the output, and of a snapshot if the batch requests one.

        While the output of a block of windows is written, the next block is computed, because disks are slow.

        Raises:
            OutputError: an earlier output or snapshot could not be written.
        """
        has_issued = False
        windows_per_step = self._settings.windows_per_step
        for shard, output in apply(self._shard, batch, self._models.models(batch), windows_per_step):
            if self._guard.is_abandoned:  # check after each block, because a batch may have many blocks
                return
            self._shard = shard
            if output.revises and output.forecasts is not None:
                self._models.note_repaired(output.forecasts.series_ids)
            self._models.warm_up(shard)
            if output.done is None:
                has_issued |= output.forecasts is not None and len(output.forecasts) > 0
                self._writer.put(partial(self._output.write, output))
                continue
            self._writer.put(partial(self._finish, output.done, shard, has_issued))
            has_issued = False
            if output.done.snapshot and not output.done.ends and not self._is_snapshot_requested:
                self._is_snapshot_requested = True
                self._snapshots.put(self._write_snapshot)

    def _write_snapshot(self) -> None:
        """Copy the shard, wait until its earlier output is written, and write the copy as a snapshot.

        The thread of the shard makes the copy, because the arrays of the shard change in place while the
        snapshot is written. Only one copy exists at a time, because copies of all shards would double the
        memory. So one thread requests and writes the copies of all shards one after the other, and the
        snapshots of the shards are of different moments.
        """
        with suppress(CancelledError):  # a cancelled task means that the run was abandoned or a thread failed
            copy = self._thread.put(self._copy).result()
            # The writer runs its tasks in order, so `take_unsynced` runs after all earlier output is written.
            files = self._writer.put(self._output.take_unsynced).result()
            if self._guard.may_write():
                self._snapshot_writer.write(copy, files)

    def _copy(self) -> Shard:
        self._is_snapshot_requested = False
        return self._shard.copy()

    def _finish(self, batch: Batch, shard: Shard, has_issued: bool) -> None:
        """Record the latency of a batch that issued forecasts; publish the shard's numbers if they are due.

        After the last batch of the run, `_end` publishes the numbers, after it has written the last snapshot.

        The writer thread calls this after the output of the batch. ``shard`` is the shard after the batch.
        """
        if has_issued:
            self._publisher.record_latency(batch, shard)
        # Run `_end` in the snapshot thread, so that no earlier snapshot replaces the last one.
        if batch.ends:
            self._snapshots.put(partial(self._end, batch, shard))
        elif self._publisher.is_due(has_issued) and self._guard.may_write():
            self._publisher.publish(shard)

    def _end(self, batch: Batch, shard: Shard) -> None:
        """Write the last snapshot of the shard, publish its last numbers, and mark the shard as ended.

        The shard is not copied, because no batch follows. The unsynced files are not taken before this call,
        because an earlier snapshot may still need them.
        """
        if not self._guard.may_write():
            return
        if batch.snapshot:
            self._snapshot_writer.write(shard, self._output.take_unsynced())
        self._publisher.publish(shard, is_last=True)
        # Write this mark after everything else: the engine may stop as soon as every shard has its mark.
        mark_shard_ended(self._settings, shard.number)


def _open_shard(
    settings: StepSettings, snapshots: SnapshotWriter, models: ShardModels, output: ShardOutput
) -> Shard:
    """Read a shard from its snapshot; re-warm it if needed; remove files that a resumed run writes again.

    A state is re-warmed if none of the job's model versions made it. If the history of the shard has such a
    state, the history is removed, and the windows that are closed already cannot be repaired. A resumed run
    removes the files that the earlier run wrote after the snapshot.
    """
    (shard, snapshot_ns), known = snapshots.take_over(), models.models()
    if not known.has_made(shard.state):
        following = 0 if shard.closed_through is None else shard.closed_through + 1
        state = rewarm(known.of_window(following), shard.state)
        shard = replace(shard, state=state, slots=slots_of(state), history=None)
    if shard.history is not None and not all(known.has_made(copy.state) for copy in shard.history.copies):
        shard = replace(shard, history=None)
    shard = shard.with_shadow(known.shadow)
    if settings.resumed:
        output.remove_after(closed_us(shard), shard.offsets, snapshot_ns, models.versions)
    return shard
