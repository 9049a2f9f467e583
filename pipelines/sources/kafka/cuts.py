"""Where what was read of a partition is cut into batches: a re-read must decide alike which rows are late.

A poll ends where it happens to end, and what is late must not depend on that. So the watermark before an
offset is a function of the rows before it, and a row is late by the watermark before its own message. But a
shard judges all rows of a batch by the watermark before the batch. Hence a batch ends before the first row
for which the two differ: once for every window that closes and then has one more row; with rows in order
never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.shard import Batch
from forecaster.windows import MICROSECONDS
from pipelines.sources.base import Place

_NEVER = np.iinfo(np.int64).min

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
    freq_s: int,
    lateness_s: int,
    carried_us: Callable[[Offsets], Offsets],
) -> tuple[list[Batch], Place]:
    """What was read from ``place`` on as batches, and the place after them.

    Args:
        partition: its name.
        place: where the reading began.
        taken: what was read.
        freq_s: length of a window in seconds.
        lateness_s: how far the watermark stays behind the newest row.
        carried_us: for offsets ``[n]`` the watermark that other partitions had carried this one's to before
            each; the least integer where they had not.
    """
    log = _Log(place, taken, lateness_s, carried_us)
    cuts = {cut for cut in place.cuts if cut < taken.stop} | {*log.late_cuts(freq_s * MICROSECONDS)}
    made: list[Batch] = []
    before = place.watermark_us
    for start, stop in pairwise([place.offset, *sorted(cuts), taken.stop]):
        after = log.watermark_us(stop)
        made.append(
            Batch(
                partition,
                start,
                stop,
                _between(taken.rows, start, stop),
                _between(taken.rejected, start, stop),
                after if after != before else None,
                int(((taken.outside >= start) & (taken.outside < stop)).sum()),
                taken.came_s,
            )
        )
        before = after
    return made, Place(taken.stop, before, tuple(cut for cut in place.cuts if cut > taken.stop))


class _Log:
    """The watermark before any offset of what was read."""

    def __init__(
        self, place: Place, taken: Taken, lateness_s: int, carried_us: Callable[[Offsets], Offsets]
    ) -> None:
        self.carried_us, self.start = carried_us, place.offset
        self.offsets: Offsets = taken.rows["offset"].to_numpy()
        self.event_us: Offsets = taken.rows["timestamp"].to_physical().to_numpy()
        first = _NEVER if place.watermark_us is None else place.watermark_us
        moved = np.maximum.accumulate(np.append(first, self.event_us - lateness_s * MICROSECONDS))
        self.moved: Offsets = moved  # [rows + 1]: by the rows before each

    def before(self, offsets: Offsets) -> Offsets:
        rows = np.searchsorted(self.offsets, offsets, side="left")
        return np.maximum(self.moved[rows], self.carried_us(offsets))

    def watermark_us(self, offset: int) -> int | None:
        us = int(self.before(np.array([offset], np.int64))[0])
        return None if us == _NEVER else us

    def late_cuts(self, freq_us: int) -> Iterator[int]:
        """Offsets before which a batch must end; see the module."""
        window, closed = self.event_us // freq_us, self.before(self.offsets) // freq_us - 1
        late = np.flatnonzero(window <= closed)
        known = int(self.before(np.array([self.start], np.int64))[0]) // freq_us - 1
        while len(late := late[np.argmax(window[late] > known) :] if len(late) else late):
            row = late[0]
            if window[row] <= known:
                return
            yield int(self.offsets[row])
            known = closed[row]


def _between(frame: pl.DataFrame, start: int, stop: int) -> pl.DataFrame:
    if not len(frame):
        return frame
    offsets = frame["offset"]
    low, high = offsets.search_sorted(start, "left"), offsets.search_sorted(stop, "left")
    return frame[low:high]
