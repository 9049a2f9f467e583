"""One shard as a worker has it: stepped through its batches, what comes of them written, its numbers told."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from forecaster.rewarming import rewarm
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Output, Shard, apply, slots_of
from forecaster.state import live
from pipelines.sinks.files import LATE, QUARANTINE, ShardFiles
from pipelines.sinks.kafka import TopicWriter
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import (
    PUBLISHED_EVERY_S,
    PUBLISHED_REMOTELY_EVERY_S,
    RECENT,
    ShardNumbers,
    publish,
)
from pipelines.state import snapshot_file
from pipelines.storage import Location, sync
from pipelines.workers.ownership import is_owned_by_another_run, mark_shard_ended
from pipelines.workers.snapshot_queue import SnapshotQueue
from pipelines.workers.step_settings import StepSettings, forecaster_of
from pipelines.workers.worker_thread import WorkerThread


class ShardWorker:
    """One shard: its value, what is written of it, and its numbers.

    Args:
        settings: of the run.
        number: of the shard.
        writer: where forecasts and rows are written, in order.
        snapshots: where snapshots are.
        turns: whose turn it is to be copied for one.
        abandoned: set when nobody waits any more for what this run writes.
        topics: sends what goes to topics; None where all goes into files.

    Raises:
        StatecastError: its snapshot cannot be read.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        writer: WorkerThread,
        snapshots: WorkerThread,
        turns: SnapshotQueue,
        abandoned: threading.Event,
        topics: TopicWriter | None = None,
    ) -> None:
        self.settings, self.topics = settings, topics
        self.writer, self.snapshots, self.turns = writer, snapshots, turns
        self.abandoned = abandoned
        self.forecaster = forecaster_of(settings.forecaster, settings.covariates)
        self.files = ShardFiles(
            settings.output, number, settings.shards, self.forecaster.version, settings.format
        )
        self.snapshot = snapshot_file.owned(settings.states, number, settings.shards)
        self.shard = self._opened(number)
        self.latency = Histogram()
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self.snapshot_at_s = self.snapshot_ms = 0.0
        self.published_s = 0.0
        self._telling = threading.Lock()
        self._told: ShardNumbers | None = None

    def _opened(self, number: int) -> Shard:
        shard = snapshot_file.read_shard(self.settings.states, number, self.settings.shards)
        if shard.state.model_version != self.forecaster.version:
            state = rewarm(self.forecaster, shard.state)
            shard = replace(shard, state=state, slots=slots_of(state))
        if self.settings.resumed:
            closed, freq = shard.closed_through, shard.state.freq
            closed_us = None if closed is None else freq.end_us(closed)
            snapshot_ns = snapshot_file.written_ns(self.settings.states, number, self.settings.shards)
            self.files.remove_after(closed_us, shard.offsets, snapshot_ns)
        return shard

    def step(self, batch: Batch) -> None:
        """Applies a batch, and has what comes of it written: forecasts and rows, then the snapshot.

        A disk lets its writers wait; the next block is stepped meanwhile. The snapshot may be one of after a
        later batch: see `take_turn`.

        Raises:
            OutputError: something could not be written.
        """
        has_issued = False
        for shard, output in apply(self.shard, batch, self.forecaster, self.settings.windows_per_step):
            if self.abandoned.is_set():  # a batch may be many blocks, and nobody waits for them
                return
            self.shard = shard
            if output.done is None:
                has_issued |= output.forecasts is not None and len(output.forecasts) > 0
                self.writer.put(partial(self._write, output))
                continue
            self.writer.put(partial(self._finish, output.done, shard, has_issued))
            has_issued = False
            if output.done.ends:
                self.turns.withdraw(shard.number)
            elif output.done.snapshot:
                self.snapshots.check()
                self.turns.ask(shard.number)
            self.take_turn()

    def take_turn(self) -> None:
        """Has a snapshot written, if one was asked for and no other is on its way.

        What is written in the background must not be stepped on meanwhile, so it is a copy; one at a time,
        since those of all shards are as much memory again as the fleet's state. Shards then are snapshots of
        several moments.

        Raises:
            OutputError: something could not be written.
        """
        if not self.turns.take(self.shard.number):
            return
        kept = self.shard.copy()
        # after all that was written of it: the writer does one thing after the other
        self.writer.put(lambda: self._put_snapshot(kept))

    def _put_snapshot(self, kept: Shard) -> None:
        if self._is_over():
            return
        self.snapshots.put(partial(self._snapshot, kept, self.files.taken()))
        self.snapshots.put(self.turns.end)  # on its own: by then the lane has let go of the copy

    def _write(self, output: Output) -> None:
        for part, rows in ((QUARANTINE, output.quarantined), (LATE, output.late)):
            if len(rows) and not self._is_over():
                self._write_rows(part, output, rows)
        forecasts = output.forecasts
        if forecasts is not None and len(output.replaced) and not self._is_over():
            self.files.write_replaced(forecasts, output.replaced)
        if forecasts is None or not len(forecasts) or self._is_over():
            return
        if self.topics is None:
            self.files.write_forecasts(forecasts)
        else:
            self.topics.write_forecasts(forecasts, self.files.shard)

    def _write_rows(self, part: str, output: Output, rows: pl.DataFrame) -> None:
        if self.topics is not None and self.topics.topics.of(part):
            self.topics.write_rows(part, rows)
        else:
            self.files.write_rows(part, output.partition, output.start, rows)

    def _finish(self, batch: Batch, shard: Shard, has_issued: bool) -> None:
        """What follows when all of a batch is written; ``shard`` is as the batch left it."""
        if has_issued and batch.arrived_s and (closed_us := _closed_us(shard)) is not None:
            ms = 1000 * (time.time() - batch.arrived_s)
            self.latency = self.latency.add(ms)
            self.recent.append((closed_us, ms))
        if not (batch.ends or self._is_to_publish(has_issued)) or self._is_over():
            return
        if batch.snapshot and batch.ends:
            self.snapshots.wait()  # an older one must not come after this one
            self._snapshot(shard, self.files.taken())
        self._publish(shard)
        if batch.ends:  # last: an engine may be ended as soon as all shards have
            mark_shard_ended(self.settings, shard.number)

    def _is_to_publish(self, has_news: bool) -> bool:
        is_local = isinstance(self.settings.output, Path)
        every_s = PUBLISHED_EVERY_S if is_local else PUBLISHED_REMOTELY_EVERY_S
        return (has_news and is_local) or time.monotonic() - self.published_s >= every_s

    def _is_over(self) -> bool:
        """Whether nobody waits any more for what this run writes."""
        if not self.abandoned.is_set() and is_owned_by_another_run(self.settings):
            self.abandoned.set()
        return self.abandoned.is_set()

    def _snapshot(self, shard: Shard, files: list[Location]) -> None:
        began_s = time.monotonic()
        if self.topics is not None:
            self.topics.flush()
        sync(files)
        states = self.settings.states
        if not snapshot_file.write_shard(states, shard, lambda: not self._is_over(), self.snapshot):
            return
        with self._telling:  # at once: a source that is silent has no next batch that would tell
            self.snapshot_ms = 1000 * (time.monotonic() - began_s)
            self.snapshot_at_s = time.time()
            if self._told is not None:
                self._told = replace(
                    self._told, snapshot_at_s=self.snapshot_at_s, snapshot_ms=self.snapshot_ms
                )
                publish(self.settings.output, self._told)

    def _publish(self, shard: Shard) -> None:
        state = shard.state
        self.published_s = time.monotonic()
        with self._telling:
            self._told = ShardNumbers(
                shard=shard.number,
                counts=shard.counts,
                closed_us=_closed_us(shard),
                watermark_us=shard.watermark_us,
                offsets=shard.offsets,
                series=len(state),
                live=int(live(state).sum()),
                state_bytes=round(state.bytes_per_series * len(state)),
                latency=self.latency,
                snapshot_at_s=self.snapshot_at_s,
                snapshot_ms=self.snapshot_ms,
                recent=tuple(self.recent),
            )
            publish(self.settings.output, self._told)


def _closed_us(shard: Shard) -> int | None:
    """The end of the last closed window; None before the first."""
    closed = shard.closed_through
    return None if closed is None else shard.state.freq.end_us(closed)
