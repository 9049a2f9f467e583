"""Split the rows that were polled from one partition into batches.

A poll ends at an arbitrary offset, and a re-read has other polls. But a re-read must find the same rows late.
So the watermark that decides whether a row is late is computed from all messages before the row's message,
and does not depend on the polls. If a batch has a late row, its column `BEFORE` holds the watermark before
each row. Otherwise the watermark before the batch is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import BEFORE, NEVER
from forecaster.time.frequency import Frequency
from forecaster.time.windows import MICROSECONDS
from pipelines.sources.base import Position

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class PolledRows:
    """One partition's valid and rejected rows from one poll, and the offsets of rows outside the time bounds.

    Attributes:
        stop: one past the last offset that was read.
        rows: observation frame with ``offset``, ascending; all rows of a message have its offset.
        rejected: frame of quarantined rows with ``offset``, ascending.
        outside: offsets of the rows outside the job's time bounds, ascending.
        arrived_at_s: timestamp of the last message, in seconds since 1970; 0 without messages.
    """

    stop: int
    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: Offsets
    arrived_at_s: float


def batches(
    partition: str,
    place: Position,
    taken: PolledRows,
    freq: Frequency,
    lateness_s: int,
    advanced_us: Callable[[Offsets], Offsets],
) -> tuple[list[Batch], Position]:
    """Split a partition's polled rows at ``place.cuts``; return the batches and the position after the rows.

    Args:
        partition: name of the partition.
        place: the position before the polled rows.
        taken: the polled rows.
        freq: length of a window.
        lateness_s: how far the watermark stays behind the newest row.
        advanced_us: returns for each of ``n`` offsets the watermark to which the idle partition was advanced
            before this offset; `NEVER` if it was not advanced.
    """
    watermarks = _Watermarks(place, taken, lateness_s, advanced_us)
    rows = watermarks.rows(freq)
    made: list[Batch] = []
    before = watermarks.watermark_us(place.offset)
    cuts = [cut for cut in place.cuts if cut < taken.stop]
    for start, stop in pairwise([place.offset, *cuts, taken.stop]):
        after = watermarks.watermark_us(stop)
        made.append(
            Batch(
                partition,
                start,
                stop,
                between(rows, start, stop),
                between(taken.rejected, start, stop),
                after if after != before else None,
                int(((taken.outside >= start) & (taken.outside < stop)).sum()),
                taken.arrived_at_s,
                before_us=before,
            )
        )
        before = after
    later_cuts = tuple(cut for cut in place.cuts if cut > taken.stop)
    return made, place._replace(offset=taken.stop, watermark_us=before, cuts=later_cuts)


class _Watermarks:
    """Computes the watermark of the partition before each offset of the polled rows."""

    def __init__(
        self, place: Position, taken: PolledRows, lateness_s: int, advanced_us: Callable[[Offsets], Offsets]
    ) -> None:
        self.advanced_us, self.taken = advanced_us, taken
        self.offsets: Offsets = taken.rows["offset"].to_numpy()
        self.event_us: Offsets = taken.rows["timestamp"].to_physical().to_numpy()
        first = NEVER if place.watermark_us is None else place.watermark_us
        moved = np.maximum.accumulate(np.append(first, self.event_us - lateness_s * MICROSECONDS))
        # The watermarks without advances of an idle partition: before each row, and last, after the last row.
        self.moved: Offsets = moved

    def before(self, offsets: Offsets) -> Offsets:
        rows = np.searchsorted(self.offsets, offsets, side="left")
        return np.maximum(self.moved[rows], self.advanced_us(offsets))

    def watermark_us(self, offset: int) -> int | None:
        us = int(self.before(np.array([offset], np.int64))[0])
        return None if us == NEVER else us

    def rows(self, freq: Frequency) -> pl.DataFrame:
        """Return the polled rows; if a row is late, add a column with the watermark before each row."""
        before = self.before(self.offsets)
        is_late = freq.window_of(self.event_us) < freq.window_of(before)
        return self.taken.rows.with_columns(pl.Series(BEFORE, before)) if is_late.any() else self.taken.rows


def between(frame: pl.DataFrame, start: int, stop: int) -> pl.DataFrame:
    """Return the rows of a frame with offsets in ``[start, stop)``; the frame must be sorted by offset."""
    if not len(frame):
        return frame
    low, high = np.searchsorted(frame["offset"].to_numpy(), (start, stop))
    return frame[int(low) : int(high)]
