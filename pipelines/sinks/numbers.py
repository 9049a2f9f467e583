"""What the shards of a job publish of themselves: counts, places, latencies; and these added up.

Counts and progress are values that travel: a worker may be another process, on another machine. A shard keeps
one small file in the output folder, and whoever wants to know reads them all. Nothing here grows with the
length of a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from forecaster.shards.counts import Counts
from pipelines.sinks.latency import Histogram
from pipelines.storage import Location, Remote, remove_tree, write_text
from schemas.errors import OutputError

FOLDER: Final = ".numbers"

PUBLISHED_EVERY_S: Final = 0.05
"""Seconds between two publications of a shard, where there is nothing new."""

PUBLISHED_REMOTELY_EVERY_S: Final = 2.0
"""Seconds between two publications of a shard, and two looks, in an object store: each is paid for."""

RECENT: Final = 64
"""So many of a shard's last closings are published one by one, for whoever joins them over shards."""

_OPEN = 4096  # closings that wait for the slowest shard


@dataclass(frozen=True)
class ShardNumbers:
    """What a shard says of itself.

    Attributes:
        shard: its number.
        counts: where the rows went.
        closed_us: end of the last closed window in microseconds; None before the first.
        watermark_us: the least over its partitions; None before the first.
        offsets: how far it has read each partition.
        series, live: slots, and series that are being forecast.
        state_bytes: of the arrays of its state.
        latency: from the moment rows were due to their forecasts on disk, a batch each.
        snapshot_at_s, snapshot_ms: when the last snapshot was complete (wall clock), and how long it took; 0
            before the first.
        recent: the last `RECENT` of the latencies, oldest first, each as ``closed_us`` after it and
            milliseconds.
    """

    shard: int
    counts: Counts
    closed_us: int | None
    watermark_us: int | None
    offsets: Mapping[str, int]
    series: int
    live: int
    state_bytes: int
    latency: Histogram = field(default_factory=Histogram)
    snapshot_at_s: float = 0.0
    snapshot_ms: float = 0.0
    recent: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class JobNumbers:
    """The numbers of all shards of a job, added up.

    Attributes:
        counts: where the rows went.
        closed_us: end of the last window that all shards have closed.
        watermark_us: the least watermark.
        series, live, state_bytes: sums.
        latency: of every shard's batches.
        whole: of whole windows: each is done when its slowest shard is.
        snapshot_at_s: of the oldest of the shards' last snapshots; 0 while one has none.
        snapshot_ms: of the longest.
    """

    counts: Counts = field(default_factory=Counts)
    closed_us: int | None = None
    watermark_us: int | None = None
    series: int = 0
    live: int = 0
    state_bytes: int = 0
    latency: Histogram = field(default_factory=Histogram)
    whole: Histogram = field(default_factory=Histogram)
    snapshot_at_s: float = 0.0
    snapshot_ms: float = 0.0

    @staticmethod
    def of(shards: Sequence[ShardNumbers], whole: Histogram | None = None) -> JobNumbers:
        """The sum of what shards said, with latencies of ``whole`` windows (see `JobReader`)."""
        if not shards:
            return JobNumbers()
        return JobNumbers(
            counts=sum((s.counts for s in shards), Counts()),
            closed_us=min((s.closed_us for s in shards if s.closed_us is not None), default=None),
            watermark_us=min((s.watermark_us for s in shards if s.watermark_us is not None), default=None),
            series=sum(s.series for s in shards),
            live=sum(s.live for s in shards),
            state_bytes=sum(s.state_bytes for s in shards),
            latency=sum((s.latency for s in shards), Histogram()),
            whole=whole or Histogram(),
            snapshot_at_s=min(s.snapshot_at_s for s in shards),
            snapshot_ms=max(s.snapshot_ms for s in shards),
        )

    def watermark_lag_s(self, now_s: float) -> float | None:
        """How far the watermark is behind the wall clock; None while there is none."""
        return None if self.watermark_us is None else now_s - self.watermark_us / 1e6

    def as_json(self, now_s: float) -> dict[str, Any]:
        """Flat, for a line of JSON; ``p50_ms`` and ``p99_ms`` are of whole windows."""
        age = None if not self.snapshot_at_s else round(now_s - self.snapshot_at_s, 1)
        lag = self.watermark_lag_s(now_s)
        return {
            **asdict(self.counts),
            "quarantined_share": round(self.counts.quarantined_share, 4),
            "series": self.series,
            "live": self.live,
            "closed_us": self.closed_us,
            "watermark_us": self.watermark_us,
            "watermark_lag_s": None if lag is None else round(lag, 1),
            **_quantiles("", self.whole),
            **_quantiles("shard_", self.latency),
            "snapshot_age_s": age,
            "snapshot_ms": round(self.snapshot_ms, 1),
            "state_bytes": self.state_bytes,
        }


class JobReader:
    """Reads a job's numbers again and again, and joins what its shards say of each window.

    A window counts once every shard has closed it, with the latency of the slowest. Of a shard that closes
    more than `RECENT` between two reads some are never seen; those windows are left out, in all shards.

    Args:
        folder: the job's output folder.
        shards: how many it has.
    """

    def __init__(self, folder: Location, shards: int) -> None:
        self.folder, self.shards = folder, shards
        self._last, self._read_s = JobNumbers(), float("-inf")
        self._whole = Histogram()
        self._read: dict[int, int] = {}  # latencies of each shard that were looked at
        self._open: dict[int, float] = {}  # the longest yet, by the window that was closed
        self._since_us = 0  # of older windows some shard's latency was not seen

    def read(self) -> JobNumbers:
        """What the shards published last, added up; of an object store, what they had a moment ago."""
        if isinstance(self.folder, Remote) and time.monotonic() - self._read_s < PUBLISHED_REMOTELY_EVERY_S:
            return self._last
        self._last, self._read_s = self.read_uncached(), time.monotonic()
        return self._last

    def read_uncached(self) -> JobNumbers:
        """What the shards published last, added up."""
        told = read_shards(self.folder)
        for shard in told:
            self._take(shard)
        if len(told) == self.shards:
            self._close(min(-1 if shard.closed_us is None else shard.closed_us for shard in told))
        for at_us in sorted(self._open)[: max(len(self._open) - _OPEN, 0)]:
            del self._open[at_us]
        return JobNumbers.of(told, self._whole)

    def _take(self, shard: ShardNumbers) -> None:
        count, before = shard.latency.count, self._read.get(shard.shard, 0)
        new = count - before if count >= before else count  # fewer: its worker began anew
        self._read[shard.shard] = count
        seen = shard.recent[-new:] if new else ()
        if new > len(seen) and seen:
            self._since_us = max(self._since_us, seen[0][0])
        for closed_us, ms in seen:
            self._open[closed_us] = max(ms, self._open.get(closed_us, 0.0))

    def _close(self, through_us: int) -> None:
        for at_us in sorted(us for us in self._open if us <= through_us):
            ms = self._open.pop(at_us)
            if at_us >= self._since_us:
                self._whole = self._whole.add(ms)


def _quantiles(prefix: str, latency: Histogram) -> dict[str, float]:
    if not latency.count:
        return {}
    return {f"{prefix}p{p}_ms": round(latency.quantile_ms(p / 100), 1) for p in (50, 99)}


def publish(folder: Location, numbers: ShardNumbers) -> None:
    """Puts a shard's numbers where the job finds them; an output folder that is gone is no error.

    Raises:
        OutputError: they cannot be written.
    """
    path = folder / FOLDER / f"shard-{numbers.shard:04d}.json"
    # `asdict` would copy every latency, twenty times a second.
    parts = {"counts": vars(numbers.counts), "latency": vars(numbers.latency)}
    try:
        write_text(path, json.dumps(vars(numbers) | parts))
    except FileNotFoundError:
        if isinstance(folder, Path) and folder.exists():
            (folder / FOLDER).mkdir(exist_ok=True)
            publish(folder, numbers)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


_NUMBERS: Final = TypeAdapter(ShardNumbers)


def _published(folder: Location) -> list[Location]:
    return sorted((folder / FOLDER).glob("shard-*.json"), key=lambda path: path.name)


def read_shards(folder: Location) -> list[ShardNumbers]:
    """What the shards of a job published last, those that have."""
    found = []
    for path in _published(folder):
        # One that is not there, whole or of this version, says nothing; it comes again.
        with suppress(FileNotFoundError, ValueError):
            found.append(_NUMBERS.validate_json(path.read_bytes()))
    return found


def applied(folder: Location, shards: int) -> Mapping[str, int]:
    """How far all shards that follow it have come in each partition; nothing while some have not said."""
    found = read_shards(folder)
    if len(found) != shards:
        return {}
    names = {name for shard in found for name in shard.offsets}
    return {name: min(s.offsets[name] for s in found if name in s.offsets) for name in names}


def notices_of(folder: Location) -> Location:
    """Return the file of a job's notices about its rows, in an output folder."""
    return folder / FOLDER / "notices.json"


def clear(folder: Location) -> None:
    """Forgets what an earlier job published."""
    remove_tree(folder / FOLDER)
