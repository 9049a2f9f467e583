"""Read the numbers of a job repeatedly, and compute each window's latency from the latencies of shards."""

from __future__ import annotations

import time
from typing import Final

from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import PUBLISHED_REMOTELY_EVERY_S, JobNumbers, ShardNumbers, read_shards
from pipelines.storage import Location, store_of

# `JobReader` keeps the latencies of at most this many windows that not every shard has closed.
_MOST_OPEN: Final = 4096


class JobReader:
    """Reads a job's numbers repeatedly; the latency of a window is its largest latency in any shard.

    A window is counted when every shard has closed it. If a shard closes more than `RECENT` windows between
    two reads, some of their latencies are lost. Windows with a lost latency are not counted.

    Args:
        folder: output folder of the job.
        shards: number of its shards.
    """

    def __init__(self, folder: Location, shards: int) -> None:
        self.folder, self.shards = folder, shards
        self._last, self._read_s = JobNumbers(), float("-inf")
        self._window_latency = Histogram()
        self._read_counts: dict[int, int] = {}  # number of latencies read so far, by shard
        self._longest_ms: dict[int, float] = {}  # largest latency of each window in any shard, by its end
        self._complete_since_us = 0  # latencies of windows that end before this time are not counted

    def read(self) -> JobNumbers:
        """Return the job's current numbers; an object store is read at most every two seconds."""
        every_s = PUBLISHED_REMOTELY_EVERY_S if store_of(self.folder).bills_requests else 0.0
        if time.monotonic() - self._read_s < every_s:
            return self._last
        self._last, self._read_s = self.read_uncached(), time.monotonic()
        return self._last

    def read_uncached(self) -> JobNumbers:
        """Read the latest numbers of the shards, and return the job's numbers."""
        shards = read_shards(self.folder)
        for shard in shards:
            self._record_latencies(shard)
        if len(shards) == self.shards:
            self._count_windows_through(
                min(-1 if shard.closed_us is None else shard.closed_us for shard in shards)
            )
        for at_us in sorted(self._longest_ms)[: max(len(self._longest_ms) - _MOST_OPEN, 0)]:
            del self._longest_ms[at_us]
        return JobNumbers.of(shards, self._window_latency)

    def _record_latencies(self, shard: ShardNumbers) -> None:
        count, before = shard.latency.count, self._read_counts.get(shard.shard, 0)
        # If the count is smaller than before, the worker was restarted and counts from 0 again.
        new = count - before if count >= before else count
        self._read_counts[shard.shard] = count
        seen = shard.recent[-new:] if new else ()
        if new > len(seen) and seen:
            self._complete_since_us = max(self._complete_since_us, seen[0][0])
        for closed_us, ms in seen:
            self._longest_ms[closed_us] = max(ms, self._longest_ms.get(closed_us, 0.0))

    def _count_windows_through(self, through_us: int) -> None:
        for at_us in sorted(us for us in self._longest_ms if us <= through_us):
            ms = self._longest_ms.pop(at_us)
            if at_us >= self._complete_since_us:
                self._window_latency = self._window_latency.add(ms)
