"""Read the batches of a log; wait for slow shards, request snapshots, and end the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.sources.base import Log, Positions
from pipelines.storage import Location, store_of

_HOLD_BACK_S = 0.02
_REPORT_EVERY_S = 0.5
# The reader calls `applied` if more batches than this, or too many bytes, are not known to be applied.
_MOST_AHEAD = 1000
LONGEST_WAIT_S = 0.5  # longest time between two checks for the stop file


class Read(NamedTuple):
    """The result of one call of `Reader.next`.

    Attributes:
        batches: the next batches, in the order of the log.
        places: the positions from which the next call reads.
        wait_s: seconds to wait before the next call.
        ended: whether these are the last batches of the run.
    """

    batches: tuple[Batch, ...]
    places: Positions
    wait_s: float
    ended: bool


@dataclass
class Reader:
    """Reads the batches of all partitions of a log in one run, until the log ends or a stop file exists.

    Attributes:
        log: the log to read.
        stop_file: when this file appears, the reading ends, and the last batches request a snapshot; None if
            only the end of the log ends the reading.
        snapshot_every_s: seconds between two snapshots.
        applied: returns, for each partition, the offset up to which every shard has applied the rows; while
            too many rows are not applied, the reader waits. None if the engine itself makes the reader wait.
        max_unapplied_bytes: size limit of the rows that were read and not yet applied.
        clock: returns seconds of a clock that never goes back; tests set another one.
    """

    log: Log
    stop_file: Location | None
    snapshot_every_s: float
    applied: Callable[[], Mapping[str, int]] | None = None
    max_unapplied_bytes: int = 256 << 20
    clock: Callable[[], float] = time.monotonic
    _is_announced: bool = field(default=False, init=False)
    _snapshot_s: float = field(default=0.0, init=False)
    _reported_s: float = field(default=0.0, init=False)
    _stop_checked_s: float = field(default=float("-inf"), init=False)
    _ahead: list[tuple[str, int, int]] = field(default_factory=list, init=False)
    """The batches that are not yet applied: partition, ``stop``, bytes of the rows."""

    def next(self, places: Positions) -> Read:
        """Return the next batches of the log, read from the positions ``places`` on.

        The first call returns empty batches that announce the partitions and their watermarks to every shard.
        The last call returns empty batches that request a snapshot, which is written when the shards apply
        them.

        Raises:
            DataError: the log cannot be read.
        """
        if not self._is_announced:
            self._is_announced, self._snapshot_s = True, self.clock()
            return Read(tuple(_announcements(places)), places, 0.0, False)
        if self._is_to_stop():
            return self._last_read(places)
        if self._is_held_back():
            wait_s = LONGEST_WAIT_S if self._checks_are_billed else _HOLD_BACK_S
            return Read(self._progress_requests(places), places, wait_s, False)
        step = self.log.step(places)
        if step is None:
            return self._last_read(places)
        batches, places = step.batches, step.reached
        if self.applied is not None:
            self._ahead += [
                (b.partition, b.stop, int(b.rows.estimated_size())) for b in batches if len(b.rows)
            ]
        now_s = self.clock()
        if now_s - self._snapshot_s >= self.snapshot_every_s:
            self._snapshot_s = now_s
            batches = (*batches, *(replace(empty, snapshot=True) for empty in _empty_batches(places)))
        return Read(batches, places, min(step.wait_s, LONGEST_WAIT_S), False)

    def _last_read(self, places: Positions) -> Read:
        last = tuple(replace(empty, snapshot=True, ends=True) for empty in _empty_batches(places))
        return Read(last, places, 0.0, True)

    def _progress_requests(self, places: Positions) -> tuple[Batch, ...]:
        """Return empty batches that make every shard report its offsets; () if some were returned recently.

        A shard may report its offsets before it has applied its last batch. The shard reports again only
        after another batch, so without an empty batch the reader could wait forever.
        """
        now_s = self.clock()
        if now_s - self._reported_s < _REPORT_EVERY_S:
            return ()
        self._reported_s = now_s
        return tuple(_empty_batches(places))

    @property
    def _checks_are_billed(self) -> bool:
        """Whether each check for the stop file is a paid request, as in an object store."""
        return self.stop_file is not None and store_of(self.stop_file).bills_requests

    def _is_to_stop(self) -> bool:
        if self._checks_are_billed:
            if self.clock() - self._stop_checked_s < LONGEST_WAIT_S:
                return False
            self._stop_checked_s = self.clock()
        return self.stop_file is not None and self.stop_file.exists()

    def _is_held_back(self) -> bool:
        # Calling `applied` reads a file for each shard, so call it only if the batches that may be unapplied
        # are too large or too many.
        if self.applied is None or not (self._is_far_ahead() or len(self._ahead) > _MOST_AHEAD):
            return False
        reached = self.applied()
        self._ahead = [(name, stop, size) for name, stop, size in self._ahead if stop > reached.get(name, 0)]
        return self._is_far_ahead()

    def _is_far_ahead(self) -> bool:
        # A single unapplied batch never holds the reader back, even if it is larger than the limit.
        return len(self._ahead) > 1 and sum(size for *_, size in self._ahead) > self.max_unapplied_bytes


def _announcements(places: Positions) -> Iterator[Batch]:
    """Yield an empty batch for every partition, which announces the partition and its watermark."""
    for name, place in places.items():
        yield replace(empty_batch(name, place.offset), watermark_us=place.watermark_us, shard=place.shard)


def _empty_batches(places: Positions) -> Iterator[Batch]:
    """Yield an empty batch for each shard, at the position in one of the shard's partitions.

    The batches have no watermark.
    """
    followed = {place.shard: (name, place.offset) for name, place in places.items()}
    for shard, (name, offset) in followed.items():
        yield replace(empty_batch(name, offset), shard=shard)


def request_stop(stop_file: Location) -> None:
    """Write the stop file; the job that checks for this file ends."""
    store_of(stop_file.parent).make_folder()
    stop_file.write_bytes(f"{time.time():.3f}\n".encode())
