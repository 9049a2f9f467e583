"""A shard: one value folded over a partitioned log.

Everything of a part of the fleet that must survive a crash is one `Shard`, and one function, `apply`, moves
it on by a `Batch` of its log. The backfill, the stream, the recovery and the tests all call it; nothing in
this file knows Beam, files or clocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import polars as pl

from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping import Forecasts, advance
from forecaster.windows import aggregate, window_index


@dataclass(frozen=True)
class Batch:
    """A piece of a partition's log: the rows at offsets ``[start, stop)``, on their way in.

    A batch reaches every shard of a job, with the rows of that shard alone, so that a shard without rows
    closes its windows when the others do.

    Attributes:
        partition: name of the partition.
        start: offset of the first row, from 0.
        stop: one past the offset of the last; ``start`` where the batch only carries a watermark.
        rows: observation frame with ``offset`` (Int64) beside its columns.
        rejected: frame of quarantined rows (``schemas.quarantine``) with ``offset``; a file that cannot be
            read is one of them, its ``row`` being 0.
        watermark_us: after this batch no row in time of this partition is older (event time in microseconds);
            None where that has not changed. It may change only where a re-read would change it, too.
        outside: rows between ``start`` and ``stop`` that lie outside the job's time bounds.
        arrived_s: wall clock (seconds since 1970) at which the rows were due; 0 where nobody waits for them,
            as in a replay of a backlog.
        snapshot: after this batch, write a snapshot.
    """

    partition: str
    start: int
    stop: int
    rows: pl.DataFrame
    rejected: pl.DataFrame
    watermark_us: int | None = None
    outside: int = 0
    arrived_s: float = 0.0
    snapshot: bool = False


@dataclass(frozen=True)
class Counts:
    """Where every row went, exactly, through kills and restarts: counts are part of the shard.

    Attributes:
        rows_in: rows read inside the job's time bounds.
        restored: rows that waited in the state table that the job started from.
        used: rows that went into closed windows.
        quarantined: rows that are no observations, by reason.
        duplicates: copies of rows in closed windows.
        late: rows whose window had closed.
        pending: rows whose window is still open.
        outside: rows outside the job's time bounds, not part of ``rows_in``.
        bad_files: files that could not be read.
        windows: windows closed, the most of any shard.
        series_steps: steps of a series by a window.
        cold_starts: series that came back after more than ``windows.max_gap`` windows and began anew.
    """

    rows_in: int = 0
    restored: int = 0
    used: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    late: int = 0
    pending: int = 0
    outside: int = 0
    bad_files: int = 0
    windows: int = 0
    series_steps: int = 0
    cold_starts: int = 0

    @property
    def rejected(self) -> int:
        """Rows that are no observations."""
        return sum(self.quarantined.values())

    @property
    def missing(self) -> int:
        """Rows that went in and are in none of the places; 0 unless something is broken."""
        there = self.used + self.rejected + self.duplicates + self.late + self.pending
        return self.rows_in + self.restored - there

    def __add__(self, other: Counts) -> Counts:
        """The counts of two shards of one job."""
        reasons = {
            reason: self.quarantined.get(reason, 0) + other.quarantined.get(reason, 0)
            for reason in (*self.quarantined, *(r for r in other.quarantined if r not in self.quarantined))
        }
        numbers = {
            place.name: getattr(self, place.name) + getattr(other, place.name)
            for place in fields(Counts)
            if place.name not in ("quarantined", "windows")
        }
        return Counts(quarantined=reasons, windows=max(self.windows, other.windows), **numbers)


def shard_of(series_id: str, shards: int) -> int:
    """The shard of a series: the same on every worker, machine and run (CRC-32 of the id)."""
    return zlib.crc32(series_id.encode()) % shards


@dataclass(frozen=True)
class Closed:
    """What closing windows made of a shard.

    Attributes:
        state: the fleet's state after the last closed window.
        pending: observation frame of the rows whose windows are still open.
        used: rows that went into closed windows.
        duplicates: rows among the closed ones that were copies of another.
    """

    state: State
    pending: pl.DataFrame
    used: int
    duplicates: int


def admit(rows: pl.DataFrame, closed_through: int | None, freq_s: int) -> tuple[pl.DataFrame, int]:
    """Rows whose windows are still open, and how many came too late for theirs.

    Args:
        rows: observation frame.
        closed_through: last closed window of the whole job (a new series is late where the others are);
            None before the first.
        freq_s: length of a window in seconds.
    """
    if closed_through is None or not len(rows):
        return rows, 0
    still_open = rows.filter(window_index(pl.col("timestamp"), freq_s) > closed_through)
    return still_open, len(rows) - len(still_open)


def closings(
    forecaster: Forecaster, state: State, pending: pl.DataFrame, through: int, windows_per_step: int
) -> Iterator[tuple[Forecasts | None, Closed]]:
    """Closes every window up to and including ``through``, a block of at most ``windows_per_step`` at a time.

    Blocks end at multiples of ``windows_per_step``, so that a rerun forms the same ones.

    Yields:
        After each block its forecasts (None where the shard has no series yet) and the shard as it then is.
    """
    freq_s = forecaster.window_config.freq_s
    index = pending.select(window_index(pl.col("timestamp"), freq_s)).to_series()
    if not index.is_sorted():
        order = index.arg_sort()
        pending, index = pending[order], index[order]
    begins = [int(state.clock.max()) + 1] if len(state) else index[:1].to_list()
    start = min(begins, default=through + 1)
    if start > through:
        yield None, Closed(state, pending, 0, 0)
        return
    low = 0
    while start <= through:
        stop = min(through + 1, (start // windows_per_step + 1) * windows_per_step)
        high = int(index.search_sorted(stop, side="left"))
        rows, low = pending[low:high], high
        windows, duplicates = aggregate(rows, forecaster.window_config, start, stop)
        state, forecasts = advance(forecaster, state, windows)
        yield forecasts, Closed(state, pending[high:], len(rows) - duplicates, duplicates)
        start = stop
