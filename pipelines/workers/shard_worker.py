"""Apply batches to one shard, and queue the writing of its output and snapshots."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from forecaster.model import Forecaster
from forecaster.rewarming import rewarm
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.shard import Shard, slots_of
from pipelines.sinks.kafka import TopicWriter
from pipelines.workers.numbers_publisher import NumbersPublisher, closed_us
from pipelines.workers.ownership import WriteGuard, mark_shard_ended
from pipelines.workers.shard_output import ShardOutput
from pipelines.workers.snapshot_queue import SnapshotQueue
from pipelines.workers.snapshot_writer import SnapshotWriter
from pipelines.workers.step_settings import StepSettings, forecaster_of
from pipelines.workers.worker_thread import WorkerThread


class ShardWorker:
    """Steps one shard through its batches, in one thread; other threads write its output and snapshots.

    Args:
        settings: settings of the run.
        number: number of the shard.
        writer: thread that writes the output of all shards, in order.
        snapshots: thread that writes the snapshots of all shards.
        turns: queue in which shards wait until they may copy their state for a snapshot.
        guard: decides whether the run may still write.
        topics: sends output to topics; None if all output goes into files.

    Raises:
        StatecastError: the snapshot of the shard cannot be read.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        writer: WorkerThread,
        snapshots: WorkerThread,
        turns: SnapshotQueue,
        guard: WriteGuard,
        topics: TopicWriter | None = None,
    ) -> None:
        self._settings, self._guard = settings, guard
        self._writer, self._snapshots, self._turns = writer, snapshots, turns
        self._forecaster = forecaster_of(settings.forecaster, settings.covariates)
        self._output = ShardOutput(settings, number, self._forecaster.version, guard, topics)
        self._publisher = NumbersPublisher(settings.output)
        self._snapshot_writer = SnapshotWriter(settings, number, self._output, self._publisher, guard)
        self._shard = _open_shard(settings, self._snapshot_writer, self._forecaster, self._output)

    @property
    def counts(self) -> Counts:
        """The counts of rows of the shard, after the last batch that was applied."""
        return self._shard.counts

    def step(self, batch: Batch) -> None:
        """Apply a batch, and queue the writing of its output: forecasts and rows, then the snapshot.

        Disks are slow, so the next block is computed while this one is written. A snapshot may be taken only
        after a later batch; see `take_turn`.

        Raises:
            OutputError: an earlier output could not be written.
        """
        has_issued = False
        windows_per_step = self._settings.windows_per_step
        for shard, output in apply(self._shard, batch, self._forecaster, windows_per_step):
            if self._guard.is_abandoned:  # check between blocks, because a batch may have many
                return
            self._shard = shard
            if output.done is None:
                has_issued |= output.forecasts is not None and len(output.forecasts) > 0
                self._writer.put(partial(self._output.write, output))
                continue
            self._writer.put(partial(self._finish, output.done, shard, has_issued))
            has_issued = False
            if output.done.ends:
                self._turns.withdraw(shard.number)
            elif output.done.snapshot:
                self._snapshots.check()
                self._turns.ask(shard.number)
            self.take_turn()

    def take_turn(self) -> None:
        """Copy the shard for a snapshot, if it waits for one and no other shard's copy exists.

        The shard is copied because its arrays change in place while the snapshot is written. Only one copy
        exists at a time, because copies of all shards would double the memory of the fleet's state. So the
        shards' snapshots are of different moments.

        Raises:
            OutputError: an earlier output could not be written.
        """
        if not self._turns.take(self._shard.number):
            return
        copy = self._shard.copy()
        # Queue this in the writer, which works in order, so that all output before the snapshot is written
        # first.
        self._writer.put(lambda: self._put_snapshot(copy))

    def _put_snapshot(self, copy: Shard) -> None:
        if not self._guard.may_write():
            return
        self._snapshots.put(partial(self._snapshot_writer.write, copy, self._output.take_unsynced()))
        self._snapshots.put(self._turns.end)  # a separate task, so that the copy is freed first

    def _finish(self, batch: Batch, shard: Shard, has_issued: bool) -> None:
        """Publish the numbers of the shard after a batch's output is written.

        After the last batch, first write the last snapshot. ``shard`` is the shard after the batch.
        """
        if has_issued:
            self._publisher.record_latency(batch, shard)
        if not (batch.ends or self._publisher.is_due(has_issued)) or not self._guard.may_write():
            return
        if batch.snapshot and batch.ends:
            self._snapshots.wait()  # an older snapshot must not replace this one
            self._snapshot_writer.write(shard, self._output.take_unsynced())
        self._publisher.publish(shard)
        if batch.ends:  # last, because the engine may be stopped once all shards have ended
            mark_shard_ended(self._settings, shard.number)


def _open_shard(
    settings: StepSettings, snapshots: SnapshotWriter, forecaster: Forecaster, output: ShardOutput
) -> Shard:
    """Read a shard's snapshot, re-warm it if needed, and remove the files that this run will write again.

    A state is re-warmed if another model version made it. Files are removed in a resumed run only: the files
    that the earlier run wrote after the snapshot.
    """
    shard, snapshot_ns = snapshots.take_over()
    if shard.state.model_version != forecaster.version:
        state = rewarm(forecaster, shard.state)
        shard = replace(shard, state=state, slots=slots_of(state))
    if settings.resumed:
        output.remove_after(closed_us(shard), shard.offsets, snapshot_ns)
    return shard
