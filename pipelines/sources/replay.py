"""Files played back in the order of event time: one partition, planned from rows that passed validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.shards.batch import Batch
from forecaster.time.frequency import Frequency
from forecaster.time.windows import MICROSECONDS
from pipelines.sources.base import Step
from pipelines.sources.files.row_notices import Looked, Notes
from pipelines.sources.files.sorted_runs import Sorter, sweep
from pipelines.sources.files.validated_rows import Input, read_files
from pipelines.sources.manifest import check_replay
from pipelines.storage import Location
from schemas import observations, quarantine

PARTITION = "replay"

_BATCH_ROWS = 1 << 20  # a batch ends with the window that reaches a multiple of this, at the latest


@dataclass(frozen=True)
class ReplaySource:
    """Files played back in the order of their event times, at a chosen speed.

    The log holds the rejected rows in the order of the files, then the good ones sorted by time, ties in the
    order of the files. One without good rows ends with an empty batch. No row of it is ever late.

    Attributes:
        paths: the files.
        input: how to read them.
        freq: length of a window.
        lateness_s: how far the watermark stays behind, until the last batch closes all.
        speed: event-time seconds per second; 0 plays as fast as the job can follow.
        windows_per_step: without a pace, a batch ends at windows whose index is a multiple of this; with
            one, each window is a batch, and so many are given at once where they are overdue.
        memory_bytes: what may be held of the rows; more are sorted in pieces on disk.
        manifest_folder: where the manifest of the files is kept, and sorted pieces; None for a replay that is
            never gone on with by another process.
        notes: where notices about the rows are left; None for nowhere.
        clock: wall clock, for tests.
    """

    paths: tuple[str, ...]
    input: Input
    freq: Frequency
    lateness_s: int = 0
    speed: float = 0.0
    windows_per_step: int = 64
    memory_bytes: int = 2 << 30
    manifest_folder: Location | None = None
    notes: Notes | None = None
    clock: Callable[[], float] = time.time

    @property
    def partition(self) -> str:
        """See `Source`."""
        return PARTITION

    @property
    def is_paced(self) -> bool:
        """See `Source`."""
        return self.speed > 0

    def step(self, offset: int) -> Step | None:
        """See `Source`.

        Raises:
            DataError: a file cannot be read, or is not the one that the replay was begun with.
        """
        return _player_of(self).step(offset)


@lru_cache(maxsize=1)  # the sorted rows are kept from step to step
def _player_of(source: ReplaySource) -> _Player:
    return _Player(source)


def forget() -> None:
    """Forgets what an earlier job in this process has read: a new one looks at the disk."""
    _player_of.cache_clear()


class _Player:
    """A replay in progress: the batches from an offset on, and all good rows once the files are read."""

    def __init__(self, source: ReplaySource) -> None:
        self.source = source
        self.offset: int | None = None
        self.batches: Iterator[Batch] = iter(())
        self.ahead: Batch | None = None  # one that is not due yet
        self.begun: tuple[float, int] | None = (
            None  # wall clock of the first step, and the window due then (µs)
        )
        self.sorter: Sorter | None = None
        self.rejected = self.outside = 0  # rejected rows; rows outside that no batch of them told of

    def step(self, offset: int) -> Step | None:
        if offset != self.offset:
            self._seek(offset)
        try:
            return self._step()
        except BaseException:
            self.offset = None  # the batches ended there; asked again, begin again
            raise

    def _step(self) -> Step | None:
        due: list[Batch] = []
        most = self.source.windows_per_step if self.source.speed else 1
        while len(due) < most and (batch := self._next()) is not None:
            now_s = self.source.clock()
            due_s = self._due_s(batch, now_s)
            if due_s > now_s:
                self.ahead = batch
                return self._stepped(due, due_s - now_s)
            # Latency counts from when the rows were due, not from when the source got round to them.
            due.append(replace(batch, arrived_s=due_s) if self.source.speed else batch)
        if due:
            return self._stepped(due, 0.0)
        self._close()
        return None

    def _stepped(self, batches: list[Batch], wait_s: float) -> Step:
        if batches:
            self.offset = batches[-1].stop
        assert self.offset is not None
        return Step(tuple(batches), self.offset, 0.0 if batches else wait_s)

    def _next(self) -> Batch | None:
        batch, self.ahead = self.ahead, None
        return next(self.batches, None) if batch is None else batch

    def _due_s(self, batch: Batch, now_s: float) -> float:
        if not self.source.speed or not len(batch.rows):
            return now_s
        freq = self.source.freq
        start_us = freq.start_us(freq.window_of(int(batch.rows["timestamp"].to_physical()[0])))
        if self.begun is None:
            self.begun = now_s, start_us
        began_s, began_us = self.begun
        return began_s + (start_us - began_us) / MICROSECONDS / self.source.speed

    def _seek(self, offset: int) -> None:
        self.ahead, self.begun, self.offset = None, None, offset
        if self.sorter is None or offset < self.rejected:
            self._close()
            self.batches = self._all(offset)
        else:
            self.batches = self._good(self.sorter, offset)

    def _close(self) -> None:
        if self.sorter is not None:
            self.sorter.close()
        self.sorter = None

    def _all(self, offset: int) -> Iterator[Batch]:
        """The batches from ``offset`` on: the rejected rows while the files are read, then the good ones."""
        source = self.source
        folder, now_s = source.manifest_folder, source.clock()
        if folder is not None:
            how = repr(replace(source.input, batch_rows=0))
            now_s = check_replay(folder / "replay.json", source.paths, how, offset, now_s)
        runs = folder if isinstance(folder, Path) else None
        if runs is not None:
            sweep(runs)
        sorter, rejected, outside = Sorter(source.memory_bytes, runs), 0, 0
        looked = None if source.notes is None else Looked(source.notes)
        for part in read_files(map(Path, source.paths), source.input, now_s, source.memory_bytes // 4):
            sorter.add(part.rows.drop("offset"))
            if looked is not None:
                looked.add(part.rows)
            outside += part.outside
            if len(part.rejected):
                yield from _from(offset, rejected, rejected=part.rejected, outside=outside)
                rejected, outside = rejected + len(part.rejected), 0
        sorter.finish()
        if looked is not None:
            looked.write()
        self.sorter, self.rejected, self.outside = sorter, rejected, outside
        yield from self._good(sorter, offset)

    def _good(self, sorter: Sorter, offset: int) -> Iterator[Batch]:
        """The batches of good rows from ``offset`` on; an empty one where there are none."""
        start, outside = self.rejected, self.outside
        freq, lateness_us = self.source.freq, self.source.lateness_s * MICROSECONDS
        for rows, is_last in self._pieces(sorter.frames()):
            last_window = freq.window_of(int(rows["timestamp"].to_physical()[-1]))
            watermark_us = freq.end_us(last_window) - (0 if is_last else lateness_us)
            yield from _from(offset, start, rows=rows, watermark_us=watermark_us, outside=outside)
            start, outside = start + len(rows), 0
        if start == self.rejected and offset <= start:
            yield Batch(PARTITION, start, start + 1, _NO_ROWS, _NONE_REJECTED, None, outside)

    def _pieces(self, frames: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, bool]]:
        """Sorted rows cut at ends of windows, the same on every reading, and whether these are the last."""
        start, held, frame = self.rejected, pl.DataFrame(), next(frames, None)
        while frame is not None:
            following = next(frames, None)
            rows, low = pl.concat([held, frame]) if len(held) else frame, 0
            for stop in self._cuts(rows["timestamp"], start):
                yield rows[low:stop], False
                low = stop
            start, held, frame = start + low, rows[low:], following
        if len(held):
            yield held, True

    def _cuts(self, timestamp: pl.Series, start: int) -> list[int]:
        """Where to cut sorted rows, the first of them at offset ``start``; their last window may go on."""
        window = self.source.freq.window_of(timestamp.to_physical().to_numpy())
        ends = np.flatnonzero(window[1:] != window[:-1]) + 1
        if self.source.speed:
            return [int(end) for end in ends]
        block = window[np.append(ends - 1, -1)] // self.source.windows_per_step
        reached: NDArray[np.int64] = (start + np.insert(ends, 0, 0)) // _BATCH_ROWS
        return [int(end) for end in ends[(block[1:] != block[:-1]) | (reached[1:] != reached[:-1])]]


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)


def _from(
    offset: int,
    start: int,
    *,
    rows: pl.DataFrame = _NO_ROWS,
    rejected: pl.DataFrame = _NONE_REJECTED,
    watermark_us: int | None = None,
    outside: int = 0,
) -> Iterator[Batch]:
    """The batch that begins at ``start``, or what of it is at ``offset`` and after."""
    stop = start + max(len(rows), len(rejected))
    if stop <= offset:
        return
    over = max(offset - start, 0)
    places = pl.int_range(start + over, stop, eager=True).alias("offset")
    rows, rejected = (f[over:].with_columns(places) if len(f) else f for f in (rows, rejected))
    # the rows outside belong to the first row: who goes on in the middle has counted them
    yield Batch(PARTITION, start + over, stop, rows, rejected, watermark_us, 0 if over else outside)
