"""Replay files in the order of event time, as one partition of validated rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.shards.batch import Batch
from forecaster.time.frequency import Frequency
from forecaster.time.windows import MICROSECONDS
from pipelines.sources.base import Step, opened
from pipelines.sources.files.row_notices import Notes, NoticeCollector
from pipelines.sources.files.sorted_runs import Sorter, sweep
from pipelines.sources.files.validated_rows import Input, read_files
from pipelines.sources.manifest import check_replay
from pipelines.storage import Location, store_of
from schemas import observations, quarantine

PARTITION = "replay"

# At full speed, a batch also ends after each window in which the offset reaches or passes a multiple of
# this constant.
_BATCH_ROWS = 1 << 20


@dataclass(frozen=True)
class ReplaySource:
    """Replays the rows of files in the order of the rows' times, at a chosen speed.

    The log first holds the rejected rows in the order of the files, then the valid rows sorted by time. Rows
    of equal times stay in the order of the files. If no row is valid, the log ends with an empty batch. No
    row of a replay is late. Which version of an event counts is decided over all files, before the rows are
    sorted (`pipelines.sources.files.event_versions`).

    Attributes:
        paths: the files.
        input: the settings by which to read the files.
        freq: length of a window.
        lateness_s: how far the watermark stays behind the newest row; the last batch closes all windows.
        speed: seconds of event time that are replayed in one second; 0 replays at full speed, as fast as the
            job reads.
        windows_per_step: with ``speed`` 0, batches end before windows whose index is a multiple of this.
            With another ``speed``, each window is a batch, and a step returns at most this many of the
            batches that are due.
        memory_bytes: limit of the rows in memory; more rows are sorted in pieces on the disk.
        manifest_folder: the folder of the replay's manifest and of the sorted pieces; None if no other
            process will resume the replay.
        notes: the file for notices about the rows; None to write none.
        clock: returns the wall clock, in seconds since 1970; tests set another one.
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
        """The name of the only partition; see `Source`."""
        return PARTITION

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time: True at a set speed, False at full speed; see `Source`."""
        return self.speed > 0

    def step(self, offset: int) -> Step[int] | None:
        """Return the next batches from ``offset`` on; None if all rows were replayed.

        Raises:
            DataError: a file cannot be read, or differs from the file that the replay began with.
        """
        return opened(self, _Player).step(offset)


class _Player:
    """A replay in progress: an iterator of its batches and, once all files are read, the sorted rows."""

    def __init__(self, source: ReplaySource) -> None:
        self.source = source
        self.offset: int | None = None
        self.batches: Iterator[Batch] = iter(())
        self.not_due: Batch | None = None  # a batch that was read before it is due
        self.pace_start: tuple[float, int] | None = None
        """The wall clock of the first valid row (s), and the start of its window (µs)."""
        self.sorter: Sorter | None = None
        self.rejected = 0
        self.outside = 0  # rows outside the time bounds that no batch has counted yet

    def step(self, offset: int) -> Step[int] | None:
        if offset != self.offset:
            self._seek(offset)
        try:
            return self._step()
        except BaseException:
            # The error has ended the iterator `batches`, so the next step must create it again.
            self.offset = None
            raise

    def _step(self) -> Step[int] | None:
        due: list[Batch] = []
        most = self.source.windows_per_step if self.source.speed else 1
        while len(due) < most and (batch := self._next()) is not None:
            now_s = self.source.clock()
            due_s = self._due_s(batch, now_s)
            if due_s > now_s:
                self.not_due = batch
                return self._step_of(due, due_s - now_s)
            # At a set speed, rows count as arrived when they were due, and latency is measured from that
            # time. At full speed, no latency is measured.
            due.append(replace(batch, arrived_s=due_s) if self.source.speed else batch)
        if due:
            return self._step_of(due, 0.0)
        self.close()
        return None

    def _step_of(self, batches: list[Batch], wait_s: float) -> Step[int]:
        if batches:
            self.offset = batches[-1].stop
        assert self.offset is not None
        return Step(tuple(batches), self.offset, 0.0 if batches else wait_s)

    def _next(self) -> Batch | None:
        batch, self.not_due = self.not_due, None
        return next(self.batches, None) if batch is None else batch

    def _due_s(self, batch: Batch, now_s: float) -> float:
        if not self.source.speed or not len(batch.rows):
            return now_s
        freq = self.source.freq
        start_us = freq.start_us(freq.window_of(int(batch.rows["timestamp"].cast(pl.Int64)[0])))
        if self.pace_start is None:
            self.pace_start = now_s, start_us
        first_s, first_us = self.pace_start
        return first_s + (start_us - first_us) / MICROSECONDS / self.source.speed

    def _seek(self, offset: int) -> None:
        self.not_due, self.pace_start, self.offset = None, None, offset
        if self.sorter is None or offset < self.rejected:
            self.close()
            self.batches = self._all_batches(offset)
        else:
            self.batches = self._valid_batches(self.sorter, offset)

    def close(self) -> None:
        """Free memory and files of the sorted rows; a later replay of rows reads the input files again."""
        if self.sorter is not None:
            self.sorter.close()
        self.sorter = None

    def _all_batches(self, offset: int) -> Iterator[Batch]:
        """Read the files, and yield the batches from ``offset`` on: first rejected rows, then valid rows."""
        source = self.source
        folder, now_s = source.manifest_folder, source.clock()
        if folder is not None:
            settings = repr(replace(source.input, batch_rows=0))
            now_s = check_replay(folder / "replay.json", source.paths, settings, offset, now_s)
        runs = None if folder is None else store_of(folder).on_disk
        if runs is not None:
            sweep(runs)
        sorter, rejected, outside = Sorter(source.memory_bytes, runs, source.input.columns.duplicates), 0, 0
        row_notices = None if source.notes is None else NoticeCollector(source.notes)
        for part in read_files(map(Path, source.paths), source.input, now_s, source.memory_bytes // 4):
            sorter.add(part.rows.drop("offset"))
            if row_notices is not None:
                row_notices.add(part.rows)
            outside += part.outside
            if len(part.rejected):
                yield from _batch_from(offset, rejected, rejected=part.rejected, outside=outside)
                rejected, outside = rejected + len(part.rejected), 0
        sorter.finish()
        if row_notices is not None:
            row_notices.write()
        self.sorter, self.rejected, self.outside = sorter, rejected, outside
        yield from self._valid_batches(sorter, offset)

    def _valid_batches(self, sorter: Sorter, offset: int) -> Iterator[Batch]:
        """Yield the batches of valid rows from ``offset`` on; if no row is valid, yield one empty batch."""
        start, outside = self.rejected, self.outside
        freq, lateness_us = self.source.freq, self.source.lateness_s * MICROSECONDS
        for rows, is_last in self._pieces(sorter.frames()):
            last_window = freq.window_of(int(rows["timestamp"].cast(pl.Int64)[-1]))
            watermark_us = freq.end_us(last_window) - (0 if is_last else lateness_us)
            yield from _batch_from(offset, start, rows=rows, watermark_us=watermark_us, outside=outside)
            start, outside = start + len(rows), 0
        if start == self.rejected and offset <= start:
            yield Batch(PARTITION, start, start + 1, _NO_ROWS, _NONE_REJECTED, None, outside)

    def _pieces(self, frames: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, bool]]:
        """Yield the sorted rows in pieces of whole windows; with each piece, yield whether it is the last.

        The pieces are the same on every read.
        """
        start, held, frame = self.rejected, pl.DataFrame(), next(frames, None)
        while frame is not None:
            following = next(frames, None)
            rows, low = pl.concat([held, frame]) if len(held) else frame, 0
            for stop in self._cut_indices(rows["timestamp"], start):
                yield rows[low:stop], False
                low = stop
            start, held, frame = start + low, rows[low:], following
        if len(held):
            yield held, True

    def _cut_indices(self, timestamp: pl.Series, start: int) -> list[int]:
        """Return the indices at which to cut sorted rows into pieces of whole windows.

        ``start`` is the offset of the first row. There is no cut after the last window, because rows of this
        window may follow.
        """
        window = self.source.freq.window_of(timestamp.cast(pl.Int64).to_numpy())
        ends = np.flatnonzero(window[1:] != window[:-1]) + 1
        if self.source.speed:
            return [int(end) for end in ends]
        block = window[np.append(ends - 1, -1)] // self.source.windows_per_step
        reached: NDArray[np.int64] = (start + np.insert(ends, 0, 0)) // _BATCH_ROWS
        return [int(end) for end in ends[(block[1:] != block[:-1]) | (reached[1:] != reached[:-1])]]


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)


def _batch_from(
    offset: int,
    start: int,
    *,
    rows: pl.DataFrame = _NO_ROWS,
    rejected: pl.DataFrame = _NONE_REJECTED,
    watermark_us: int | None = None,
    outside: int = 0,
) -> Iterator[Batch]:
    """Yield the rows from ``offset`` on as one batch; yield nothing if all rows are before ``offset``."""
    stop = start + max(len(rows), len(rejected))
    if stop <= offset:
        return
    skipped = max(offset - start, 0)
    places = pl.int_range(start + skipped, stop, eager=True).alias("offset")
    rows, rejected = (f[skipped:].with_columns(places) if len(f) else f for f in (rows, rejected))
    # If rows before ``offset`` are skipped, an earlier read has counted the rows outside the time bounds,
    # so this batch counts 0 of them.
    yield Batch(PARTITION, start + skipped, stop, rows, rejected, watermark_us, 0 if skipped else outside)
