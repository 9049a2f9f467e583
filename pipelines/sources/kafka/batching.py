"""What was read of a partition as batches: a re-read must decide alike which rows are late, and how much.

A poll ends where it happens to end, and what is late must not depend on that. So the watermark before an
offset is a function of the rows before it, and a row is late by the watermark before its own message. Where
one is, the rows of its batch say it each; else that before the batch will do.
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
from pipelines.sources.base import Place

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Taken:
    """What was read of a partition at once.

    Attributes:
        stop: one past the last offset that was read.
        rows: observation frame with ``offset``, rising; rows of one message share theirs.
        rejected: frame of quarantined rows, likewise.
        outside: offsets of rows outside the job's time bounds.
        came_s: wall clock at which the last message came to the broker.
    """

    stop: int
    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: Offsets
    came_s: float


def batches(
    partition: str,
    place: Place,
    taken: Taken,
    freq: Frequency,
    lateness_s: int,
    carried_us: Callable[[Offsets], Offsets],
) -> tuple[list[Batch], Place]:
    """What was read from ``place`` on as batches, and the place after them.

    Args:
        partition: its name.
        place: where the reading began.
        taken: what was read.
        freq: length of a window.
        lateness_s: how far the watermark stays behind the newest row.
        carried_us: for offsets ``[n]`` the watermark that other partitions had carried this one's to before
            each; `NEVER` where they had not.
    """
    log = _Log(place, taken, lateness_s, carried_us)
    rows = log.rows(freq)
    made: list[Batch] = []
    before = log.watermark_us(place.offset)
    cuts = [cut for cut in place.cuts if cut < taken.stop]
    for start, stop in pairwise([place.offset, *cuts, taken.stop]):
        after = log.watermark_us(stop)
        made.append(
            Batch(
                partition,
                start,
                stop,
                between(rows, start, stop),
                between(taken.rejected, start, stop),
                after if after != before else None,
                int(((taken.outside >= start) & (taken.outside < stop)).sum()),
                taken.came_s,
                before_us=before,
            )
        )
        before = after
    left = tuple(cut for cut in place.cuts if cut > taken.stop)
    return made, place._replace(offset=taken.stop, watermark_us=before, cuts=left)


class _Log:
    """The watermark before any offset of what was read."""

    def __init__(
        self, place: Place, taken: Taken, lateness_s: int, carried_us: Callable[[Offsets], Offsets]
    ) -> None:
        self.carried_us, self.taken = carried_us, taken
        self.offsets: Offsets = taken.rows["offset"].to_numpy()
        self.event_us: Offsets = taken.rows["timestamp"].to_physical().to_numpy()
        first = NEVER if place.watermark_us is None else place.watermark_us
        moved = np.maximum.accumulate(np.append(first, self.event_us - lateness_s * MICROSECONDS))
        self.moved: Offsets = moved  # [rows + 1]: by the rows before each

    def before(self, offsets: Offsets) -> Offsets:
        rows = np.searchsorted(self.offsets, offsets, side="left")
        return np.maximum(self.moved[rows], self.carried_us(offsets))

    def watermark_us(self, offset: int) -> int | None:
        us = int(self.before(np.array([offset], np.int64))[0])
        return None if us == NEVER else us

    def rows(self, freq: Frequency) -> pl.DataFrame:
        """What was read, with the watermark before each row where one of them is late."""
        before = self.before(self.offsets)
        is_late = freq.window_of(self.event_us) < freq.window_of(before)
        return self.taken.rows.with_columns(pl.Series(BEFORE, before)) if is_late.any() else self.taken.rows


def between(frame: pl.DataFrame, start: int, stop: int) -> pl.DataFrame:
    """The rows of a frame whose ``offset``, which rises, is in ``[start, stop)``."""
    if not len(frame):
        return frame
    low, high = np.searchsorted(frame["offset"].to_numpy(), (start, stop))
    return frame[int(low) : int(high)]
