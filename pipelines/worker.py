"""The shards of a job that live in this process: stepped through their batches, their outputs written.

Shards are dealt to as many threads as there are cores: NumPy, Polars and torch let go of Python's lock, so
they use them all. A shard belongs to one thread, which applies its batches in the order they come in.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import polars as pl

from forecaster.batch import Batch
from forecaster.covariates import Covariates
from forecaster.model import Forecaster
from forecaster.rewarming import rewarm
from forecaster.shard import Output, Shard, apply, slots_of
from forecaster.state import live
from pipelines import state_table
from pipelines.lane import Lane
from pipelines.sinks.files import LATE, QUARANTINE, Format, ShardFiles
from pipelines.sinks.kafka import Topics, TopicWriter
from pipelines.sinks.numbers import (
    PUBLISHED_EVERY_S,
    PUBLISHED_REMOTELY_EVERY_S,
    RECENT,
    Histogram,
    ShardNumbers,
    publish,
)
from pipelines.storage import Location, sync, write_text

_WRITTEN_AHEAD = 4  # blocks of forecasts that wait to be written; each may be 150 MB
_ENDED = ".ended-"  # and a shard's number
_RUN = ".run"  # of an output folder, says which run writes into it
_AHEAD = 8  # parts of batches that wait for a thread, so that none waits for the other


@dataclass(frozen=True)
class StepSettings:
    """What a worker needs to step the shards of a job.

    Attributes:
        job: tells this run of a job from any other.
        forecaster: `Forecaster.to_bytes`.
        shards: number of shards.
        windows_per_step: most windows in one network call.
        output: output folder.
        format: of the forecast files.
        lanes: threads that step shards side by side.
        resumed: what a run before this one wrote after its last snapshots is removed, to be written again.
        topics: where forecasts are sent, instead of into files; None for files.
        covariates: `tables_of` the forecaster.
    """

    job: str
    forecaster: bytes
    shards: int
    windows_per_step: int
    output: Location
    format: Format
    lanes: int
    resumed: bool
    topics: Topics | None = None
    covariates: bytes = b""

    @property
    def states(self) -> Location:
        """The folder of the state table, which a shard opens from."""
        return self.output / "state"


def take_over(settings: StepSettings) -> None:
    """Has the output folder belong to this run: a worker of an earlier one, still dying, writes no more."""
    write_text(settings.output / _RUN, settings.job)
    for path in settings.output.glob(f"{_ENDED}*"):
        path.unlink(missing_ok=True)


def has_ended(settings: StepSettings) -> bool:
    """Whether every shard has its last snapshot of a run; an engine may say that it is done without."""
    return len(list(settings.output.glob(f"{_ENDED}*"))) == settings.shards


def _is_taken_over(settings: StepSettings) -> bool:
    with suppress(OSError):
        return (settings.output / _RUN).read_text() != settings.job
    return False


class ShardWorker:
    """One shard: its value, what is written of it, and its numbers.

    Raises:
        StatecastError: its snapshot cannot be read.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        writer: Lane,
        snapshots: Lane,
        abandoned: threading.Event,
        topics: TopicWriter | None = None,
    ) -> None:
        self.settings, self.topics = settings, topics
        self.writer, self.snapshots, self.abandoned = writer, snapshots, abandoned
        self.forecaster = forecaster_of(settings.forecaster, settings.covariates)
        self.files = ShardFiles(
            settings.output, number, settings.shards, self.forecaster.version, settings.format
        )
        self.shard = self._opened(number)
        self.latency = Histogram()
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self.snapshot_at_s = self.snapshot_ms = 0.0
        self.published_s = 0.0

    def _opened(self, number: int) -> Shard:
        shard = state_table.read_shard(self.settings.states, number, self.settings.shards)
        if shard.state.model_version != self.forecaster.version:
            state = rewarm(self.forecaster, shard.state)
            shard = replace(shard, state=state, slots=slots_of(state))
        if self.settings.resumed:
            closed, freq = shard.closed_through, shard.state.freq
            closed_us = None if closed is None else freq.end_us(closed)
            snapshot_ns = state_table.written_ns(self.settings.states, number, self.settings.shards)
            self.files.remove_after(closed_us, shard.offsets, snapshot_ns)
        return shard

    def step(self, batch: Batch) -> None:
        """Applies a batch, and has what comes of it written: forecasts and rows, then the snapshot.

        A disk lets its writers wait; the next block is stepped meanwhile.

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
            # What is written of a shard in the background must not be stepped on meanwhile.
            kept = shard.copy() if output.done.snapshot and not output.done.ends else shard
            self.writer.put(partial(self._finish, output.done, kept, has_issued))
            has_issued = False

    def _write(self, output: Output) -> None:
        if self._is_over():
            return
        for part, rows in ((QUARANTINE, output.quarantined), (LATE, output.late)):
            if len(rows):
                self._write_rows(part, output, rows)
        if output.forecasts is not None and len(output.forecasts):
            if self.topics is None:
                self.files.write_forecasts(output.forecasts)
            else:
                self.topics.write_forecasts(output.forecasts, self.files.shard)

    def _write_rows(self, part: str, output: Output, rows: pl.DataFrame) -> None:
        if self.topics is not None and self.topics.topics.of(part):
            self.topics.write_rows(part, rows)
        else:
            self.files.write_rows(part, output.partition, output.start, rows)

    def _finish(self, batch: Batch, shard: Shard, has_issued: bool) -> None:
        """What follows when all of a batch is written; ``shard`` is as the batch left it."""
        if self._is_over():
            return
        if has_issued and batch.arrived_s and (closed_us := _closed_us(shard)) is not None:
            ms = 1000 * (time.time() - batch.arrived_s)
            self.latency = self.latency.add(ms)
            self.recent.append((closed_us, ms))
        if batch.snapshot:
            write = partial(self._snapshot, shard, self.files.taken())
            if batch.ends:
                self.snapshots.wait()  # an older one must not come after this one
                write()
            else:
                self.snapshots.put(write)
        if batch.ends or self._is_to_publish(has_issued):
            self._publish(shard)
        if batch.ends:  # last: an engine may be ended as soon as all shards have
            write_text(self.settings.output / f"{_ENDED}{shard.number:04d}", "")

    def _is_to_publish(self, has_news: bool) -> bool:
        is_local = isinstance(self.settings.output, Path)
        every_s = PUBLISHED_EVERY_S if is_local else PUBLISHED_REMOTELY_EVERY_S
        return (has_news and is_local) or time.monotonic() - self.published_s >= every_s

    def _is_over(self) -> bool:
        """Whether a run that was lost is looked after by another: on a cluster its workers may outlive it."""
        if not self.abandoned.is_set() and _is_taken_over(self.settings):
            self.abandoned.set()
        return self.abandoned.is_set()

    def _snapshot(self, shard: Shard, files: list[Location]) -> None:
        began_s = time.monotonic()
        if self.topics is not None:
            self.topics.flush()
        sync(files)
        if self._is_over():
            return
        state_table.write_shard(self.settings.states, shard)
        self.snapshot_ms = 1000 * (time.monotonic() - began_s)
        self.snapshot_at_s = time.time()

    def _publish(self, shard: Shard) -> None:
        state = shard.state
        self.published_s = time.monotonic()
        publish(
            self.settings.output,
            ShardNumbers(
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
            ),
        )


def _closed_us(shard: Shard) -> int | None:
    """The end of the last closed window; None before the first."""
    closed = shard.closed_through
    return None if closed is None else shard.state.freq.end_us(closed)


class Workers:
    """The shards of one run of a job in this process."""

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        self._lanes = [Lane(f"shards {lane}", _AHEAD) for lane in range(max(1, settings.lanes))]
        self._writer, self._snapshots = Lane("files", _WRITTEN_AHEAD), Lane("snapshots")
        self._abandoned = threading.Event()
        self._topics = None if settings.topics is None else TopicWriter(settings.topics)
        self._shards: dict[int, ShardWorker] = {}
        self._known: set[int] = set()

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
        self._lanes[number % len(self._lanes)].put(lambda: self._step(number, batch))

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
        for lane in (*self._lanes, self._writer, self._snapshots):
            try:
                lane.close()
            except BaseException as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _step(self, number: int, batch: Batch) -> None:
        if number not in self._shards:
            lanes = self._writer, self._snapshots
            self._shards[number] = ShardWorker(self.settings, number, *lanes, self._abandoned, self._topics)
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


@lru_cache(maxsize=4)
def forecaster_of(data: bytes, covariates: bytes = b"") -> Forecaster:
    """The forecaster of a worker process with its tables, decoded once.

    Args:
        data: `Forecaster.to_bytes`.
        covariates: `tables_of` it.
    """
    forecaster = Forecaster.from_bytes(data)
    return forecaster.knowing(Covariates.from_bytes(covariates)) if covariates else forecaster


def tables_of(forecaster: Forecaster) -> bytes:
    """What a forecaster knows beside values, as it travels to workers; nothing where it reads nothing."""
    covariates = forecaster.covariates
    return b"" if covariates.features.is_empty else covariates.to_bytes()
