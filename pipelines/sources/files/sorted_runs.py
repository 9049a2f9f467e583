"""Observation frames sorted by time, ties in input order, in bounded memory: sorted runs on disk, merged."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa

from schemas import observations

_PREFIX = ".runs-"
_BLOCKS = 64  # of a run; a block of each run is in memory while they are merged

_FRAME_ROWS = 1 << 18


def sweep(folder: Path) -> None:
    """Deletes the runs that a replay that was killed has left in a folder."""
    for left in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


@dataclass
class Sorter:
    """Takes observation frames in any order and gives their rows back sorted by time, then by input order.

    Attributes:
        memory_bytes: what may be taken; rows beyond a quarter of it wait on disk, since sorting takes copies.
        folder: where a hidden folder for them may be made; None for the system's place for such.
    """

    memory_bytes: int
    folder: Path | None = None
    _held: list[pl.DataFrame] = field(default_factory=list)
    _held_bytes: int = 0
    _runs: list[Path] = field(default_factory=list)
    _delete: Callable[[], object] | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows."""
        if not len(rows):
            return
        self._held.append(rows)
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self.memory_bytes // 4:
            self._spill()

    def finish(self) -> None:
        """Ends the input."""
        if self._runs and self._held:
            self._spill()
        elif self._held:
            self._held = [self._sorted()]

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows in order, in frames that fit; as often as one likes, after `finish`."""
        yield from _gathered(self._merged()) if self._runs else self._held

    def close(self) -> None:
        """Lets go of the rows and deletes what lies on disk."""
        self._held, self._runs = [], []
        if self._delete is not None:
            self._delete()

    def _sorted(self) -> pl.DataFrame:
        rows = pl.concat(self._held)
        self._held, self._held_bytes = [], 0
        at = rows["timestamp"].to_physical()
        return rows if at.is_sorted() else rows.sort("timestamp", maintain_order=True)

    def _spill(self) -> None:
        path = self._place() / f"{len(self._runs)}.arrow"
        rows = self._sorted()
        block_rows = max(1, len(rows) // _BLOCKS)
        rows.write_ipc(path, record_batch_size=block_rows, compat_level=pl.CompatLevel.oldest())
        self._runs.append(path)

    def _place(self) -> Path:
        """The folder of the runs, which goes when this object goes, or the process."""
        if self._runs:
            return self._runs[0].parent
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=_PREFIX, dir=self.folder)
        self._delete = weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        return Path(made)

    def _merged(self) -> Iterator[pl.DataFrame]:
        runs = [_Run(path) for path in self._runs]
        while True:
            open_until = [run.last_us for run in runs if run.has_more]
            if not open_until:
                break
            # A run that ends here may go on with the same time, and comes before later runs' rows of it.
            bound_us = min(open_until)
            ready = [run.take_before(bound_us) for run in runs]
            yield from _in_order(ready)
            for run in runs:
                if run.has_more and run.last_us == bound_us:
                    run.read_on()
        yield from _in_order([run.block for run in runs])


def _gathered(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The frames, small ones put together."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= _FRAME_ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def _in_order(parts: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    rows = pl.concat(parts)
    if len(rows):
        yield rows.sort("timestamp", maintain_order=True)


class _Run:
    """A sorted file, read a block at a time; ``block`` holds the rows that were read and not taken."""

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._next = 0
        self.block = observations.empty()
        self.read_on()

    @property
    def has_more(self) -> bool:
        """Whether there are blocks that were not read."""
        return self._next < int(self._file.num_record_batches)

    @property
    def last_us(self) -> int:
        """Time of the last row that was read."""
        return self._last_us

    def read_on(self) -> None:
        read = cast(pl.DataFrame, pl.from_arrow(self._file.get_batch(self._next)))
        self._next += 1
        self._last_us = int(read["timestamp"].to_physical()[-1])
        self.block = pl.concat([self.block, read], rechunk=True) if len(self.block) else read

    def take_before(self, us: int) -> pl.DataFrame:
        """The rows before a time, taken out of the block."""
        cut = int(self.block["timestamp"].to_physical().search_sorted(us, side="left"))
        taken, self.block = self.block[:cut], self.block[cut:]
        return taken
