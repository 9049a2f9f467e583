"""Apply batches to one shard, write its forecasts and snapshots, and publish its numbers."""

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
from pipelines.workers.ownership import is_taken_over, say_ended
from pipelines.workers.snapshot_queue import Turns
from pipelines.workers.step_settings import StepSettings, forecaster_of
from pipelines.workers.worker_thread import Lane


class ShardWorker:
    """One shard in a worker, with its output files, its snapshots and its numbers.

    Args:
        settings: settings of the run.
        number: number of the shard.
        writer: thread that writes forecasts and rows, in order.
        snapshots: thread that writes snapshots.
        turns: queue in which shards wait until they may copy their state for a snapshot.
        abandoned: set when the output of this run is no longer wanted.
        topics: sends output to topics; None if all output goes into files.

    Raises:
        StatecastError: the snapshot of the shard cannot be read.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        writer: Lane,
        snapshots: Lane,
        turns: Turns,
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
        """Apply a batch, and queue the writing of its output: forecasts and rows, then the snapshot.

        Disks are slow, so the next block is computed while this one is written. A snapshot may be taken only
        after a later batch; see `take_turn`.

        Raises:
            OutputError: an earlier output could not be written.
        """
        has_issued = False
        for shard, output in apply(self.shard, batch, self.forecaster, self.settings.windows_per_step):
            if self.abandoned.is_set():  # check between blocks, because a batch may have many
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
        """Copy the shard and queue the copy as a snapshot, if the shard waits for one and no other is being
        written.

        The shard is copied because its arrays change in place while the snapshot is written. Only one copy
        exists at a time, because copies of all shards would double the memory of the fleet's state. So the
        shards' snapshots are of different moments.

        Raises:
            OutputError: an earlier output could not be written.
        """
        if not self.turns.take(self.shard.number):
            return
        kept = self.shard.copy()
        # Through the writer, which works in order, so that all output before the snapshot is written first.
        self.writer.put(lambda: self._put_snapshot(kept))

    def _put_snapshot(self, kept: Shard) -> None:
        if self._is_over():
            return
        self.snapshots.put(partial(self._snapshot, kept, self.files.taken()))
        self.snapshots.put(self.turns.end)  # a separate task, so that the copy is freed first

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
        """Record the latency of a batch, publish, and write the last snapshot, once the batch's output is
        written.

        ``shard`` is the shard after the batch.
        """
        if has_issued and batch.arrived_s and (closed_us := _closed_us(shard)) is not None:
            ms = 1000 * (time.time() - batch.arrived_s)
            self.latency = self.latency.add(ms)
            self.recent.append((closed_us, ms))
        if not (batch.ends or self._is_to_publish(has_issued)) or self._is_over():
            return
        if batch.snapshot and batch.ends:
            self.snapshots.wait()  # an older snapshot must not replace this one
            self._snapshot(shard, self.files.taken())
        self._publish(shard)
        if batch.ends:  # last, because the engine may be stopped once all shards have ended
            say_ended(self.settings, shard.number)

    def _is_to_publish(self, has_news: bool) -> bool:
        is_local = isinstance(self.settings.output, Path)
        every_s = PUBLISHED_EVERY_S if is_local else PUBLISHED_REMOTELY_EVERY_S
        return (has_news and is_local) or time.monotonic() - self.published_s >= every_s

    def _is_over(self) -> bool:
        """Return whether the output of this run is no longer wanted: it was abandoned, or another run owns
        the folder.
        """
        if not self.abandoned.is_set() and is_taken_over(self.settings):
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
        with self._telling:  # now, because a silent source may send no next batch to publish after
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
    """Return the end of the last closed window in microseconds; None before the first."""
    closed = shard.closed_through
    return None if closed is None else shard.state.freq.end_us(closed)
