"""What every engine does with a source: ask for the next batches, hold back, ask for snapshots, end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from forecaster.shard import Batch
from forecaster.sharding import no_batch
from pipelines.sources.base import Source

_HELD_BACK_S = 0.02
_ASKED_EVERY_S = 0.5
LONGEST_WAIT_S = 0.5  # how long a stop can go unseen


class Read(NamedTuple):
    """What is next.

    Attributes:
        batches: in the order of the log.
        offset: where to go on from.
        wait_s: seconds until it is worth asking again.
        ended: nothing follows.
    """

    batches: tuple[Batch, ...]
    offset: int
    wait_s: float
    ended: bool


@dataclass
class Reader:
    """Reads a source for one run of a job.

    Attributes:
        source: the partition.
        stop_file: its appearance ends the reading; the last batch asks for a snapshot.
        snapshot_every_s: seconds between two snapshots.
        applied: how far every shard has come, for holding back a source that is faster than they are; None
            where whoever takes the batches waits for the shards itself.
        most_ahead_bytes: of rows that were read and not yet applied.
        clock: seconds, for tests.
    """

    source: Source
    stop_file: Path
    snapshot_every_s: float
    applied: Callable[[], int] | None = None
    most_ahead_bytes: int = 256 << 20
    clock: Callable[[], float] = time.monotonic
    _announced: bool = field(default=False, init=False)
    _snapshot_s: float = field(default=0.0, init=False)
    _asked_s: float = field(default=0.0, init=False)
    _ahead: list[tuple[int, int]] = field(default_factory=list, init=False)

    def next(self, offset: int) -> Read:
        """The next batches from ``offset`` on.

        The first announce the partition to every shard; the last ask for a snapshot that is there when they
        have been applied.

        Raises:
            DataError: the source is at fault.
        """
        if not self._announced:
            self._announced, self._snapshot_s = True, self.clock()
            return Read((no_batch(self.source.partition, offset),), offset, 0.0, False)
        if self.stop_file.exists():
            return self._end(offset)
        if self._is_held_back():
            return Read(self._asking(offset), offset, _HELD_BACK_S, False)
        step = self.source.step(offset)
        if step is None:
            return self._end(offset)
        batches = step.batches
        if self.applied is not None:
            self._ahead += [(b.stop, int(b.rows.estimated_size())) for b in batches if len(b.rows)]
        now_s = self.clock()
        if now_s - self._snapshot_s >= self.snapshot_every_s:
            self._snapshot_s = now_s
            batches = (*batches, no_batch(self.source.partition, step.offset, snapshot=True))
        return Read(batches, step.offset, min(step.wait_s, LONGEST_WAIT_S), False)

    def _end(self, offset: int) -> Read:
        last = no_batch(self.source.partition, offset, snapshot=True, ends=True)
        return Read((last,), offset, 0.0, True)

    def _asking(self, offset: int) -> tuple[Batch, ...]:
        """Now and then an empty batch: a shard may have said how far it is before it had applied its last."""
        now_s = self.clock()
        if now_s - self._asked_s < _ASKED_EVERY_S:
            return ()
        self._asked_s = now_s
        return (no_batch(self.source.partition, offset),)

    def _is_held_back(self) -> bool:
        if self.applied is None or not self._ahead:
            return False
        reached = self.applied()
        self._ahead = [(stop, size) for stop, size in self._ahead if stop > reached]
        # One batch may be larger than the budget: it goes on alone.
        return len(self._ahead) > 1 and sum(size for _, size in self._ahead) > self.most_ahead_bytes


def ask_to_stop(stop_file: Path) -> None:
    """Asks the job that watches ``stop_file`` to end cleanly; the file's time is of no matter."""
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.write_text(f"{time.time():.3f}\n")
