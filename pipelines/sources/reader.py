"""What every engine does with a source: ask for the next batches, hold back, ask for snapshots, end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import no_batch
from pipelines.sources.base import Log, Places
from pipelines.storage import Location, Remote, make_folder

_HELD_BACK_S = 0.02
_ASKED_EVERY_S = 0.5
_MOST_AHEAD = 1000  # batches
LONGEST_WAIT_S = 0.5  # how long a stop can go unseen


class Read(NamedTuple):
    """What is next.

    Attributes:
        batches: in the order of the log.
        places: where to go on from.
        wait_s: seconds until it is worth asking again.
        ended: nothing follows.
    """

    batches: tuple[Batch, ...]
    places: Places
    wait_s: float
    ended: bool


@dataclass
class Reader:
    """Reads a log for one run of a job.

    Attributes:
        log: what is read.
        stop_file: its appearance ends the reading; the last batch asks for a snapshot. None for no such file.
        snapshot_every_s: seconds between two snapshots.
        applied: how far every shard has come in each partition, for holding back a source that is faster
            than they are; None where whoever takes the batches waits for the shards itself.
        most_ahead_bytes: of rows that were read and not yet applied.
        clock: seconds, for tests.
    """

    log: Log
    stop_file: Location | None
    snapshot_every_s: float
    applied: Callable[[], Mapping[str, int]] | None = None
    most_ahead_bytes: int = 256 << 20
    clock: Callable[[], float] = time.monotonic
    _announced: bool = field(default=False, init=False)
    _snapshot_s: float = field(default=0.0, init=False)
    _asked_s: float = field(default=0.0, init=False)
    _looked_s: float = field(default=float("-inf"), init=False)
    _ahead: list[tuple[str, int, int]] = field(default_factory=list, init=False)

    def next(self, places: Places) -> Read:
        """The next batches from ``places`` on.

        The first announce the partitions to every shard, with their watermarks; the last ask for a snapshot
        that is there when they have been applied.

        Raises:
            DataError: the source is at fault.
        """
        if not self._announced:
            self._announced, self._snapshot_s = True, self.clock()
            return Read(tuple(_announcing(places)), places, 0.0, False)
        if self._is_to_stop():
            return self._end(places)
        if self._is_held_back():
            wait_s = LONGEST_WAIT_S if self._is_remote else _HELD_BACK_S
            return Read(self._asking(places), places, wait_s, False)
        stride = self.log.step(places)
        if stride is None:
            return self._end(places)
        batches, places = stride.batches, stride.places
        if self.applied is not None:
            self._ahead += [
                (b.partition, b.stop, int(b.rows.estimated_size())) for b in batches if len(b.rows)
            ]
        now_s = self.clock()
        if now_s - self._snapshot_s >= self.snapshot_every_s:
            self._snapshot_s = now_s
            batches = (*batches, *(replace(word, snapshot=True) for word in _words(places)))
        return Read(batches, places, min(stride.wait_s, LONGEST_WAIT_S), False)

    def _end(self, places: Places) -> Read:
        last = tuple(replace(word, snapshot=True, ends=True) for word in _words(places))
        return Read(last, places, 0.0, True)

    def _asking(self, places: Places) -> tuple[Batch, ...]:
        """Now and then an empty batch: a shard may have said how far it is before it had applied its last."""
        now_s = self.clock()
        if now_s - self._asked_s < _ASKED_EVERY_S:
            return ()
        self._asked_s = now_s
        return tuple(_words(places))

    @property
    def _is_remote(self) -> bool:
        """Whether a look at what the job leaves is paid for."""
        return isinstance(self.stop_file, Remote)

    def _is_to_stop(self) -> bool:
        if self.stop_file is None:
            return False
        if self._is_remote:
            if self.clock() - self._looked_s < LONGEST_WAIT_S:
                return False
            self._looked_s = self.clock()
        return self.stop_file.exists()

    def _is_held_back(self) -> bool:
        # Shards are asked when it may matter: that is a file of each, or an object that is paid for.
        if self.applied is None or not (self._is_far_ahead() or len(self._ahead) > _MOST_AHEAD):
            return False
        reached = self.applied()
        self._ahead = [one for one in self._ahead if one[1] > reached.get(one[0], 0)]
        return self._is_far_ahead()

    def _is_far_ahead(self) -> bool:
        # One batch may be larger than the budget: it goes on alone.
        return len(self._ahead) > 1 and sum(size for *_, size in self._ahead) > self.most_ahead_bytes


def _announcing(places: Places) -> Iterator[Batch]:
    """An empty batch of every partition."""
    for name, place in places.items():
        yield replace(no_batch(name, place.offset), watermark_us=place.watermark_us, shard=place.shard)


def _words(places: Places) -> Iterator[Batch]:
    """A word to every shard: an empty batch of a partition that it follows, after what came before."""
    followed = {place.shard: (name, place.offset) for name, place in places.items()}
    for shard, (name, offset) in followed.items():
        yield replace(no_batch(name, offset), shard=shard)


def ask_to_stop(stop_file: Location) -> None:
    """Asks the job that watches ``stop_file`` to end cleanly; the file's time is of no matter."""
    make_folder(stop_file.parent)
    stop_file.write_bytes(f"{time.time():.3f}\n".encode())
