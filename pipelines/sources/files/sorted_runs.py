"""Sort observation frames by time in bounded memory: write sorted runs to the disk, then merge them."""

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

from forecaster.time.duplicates import Keep
from pipelines.sources.files.event_versions import EventVersions
from schemas import observations

_PREFIX = ".runs-"
_BLOCKS = 64  # about the number of blocks in a run; the merge holds one block of each run in memory

_FRAME_ROWS = 1 << 18


def sweep(folder: Path) -> None:
    """Delete the files of sorted runs that a killed replay has left in a folder."""
    for left in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


@dataclass
class Sorter:
    """Sorts the rows of observation frames by time; rows of equal times keep the order of the input.

    Attributes:
        memory_bytes: limit of the memory; rows of more than a quarter of it are written to the disk, because
            sorting makes copies.
        folder: the folder in which a hidden folder for the runs is made; None for the system's folder of
            temporary files.
        keep: which version of an event counts; the other versions are marked, if rows have event ids.
    """

    memory_bytes: int
    folder: Path | None = None
    keep: Keep = "last"
    _held: list[pl.DataFrame] = field(default_factory=list)
    _held_bytes: int = 0
    _runs: list[Path] = field(default_factory=list)
    _delete: Callable[[], object] | None = None
    _versions: EventVersions | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows; if the held rows exceed a quarter of ``memory_bytes``, write them as a sorted run."""
        if not len(rows):
            return
        if "event_id" in rows.columns:
            self._versions = self._versions or EventVersions(self.keep)
            rows = self._versions.add(rows)
        self._held.append(rows)
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self.memory_bytes // 4:
            self._spill()

    def finish(self) -> None:
        """End the input of the sorter, so that `frames` can be called."""
        if self._versions is not None:
            self._versions.finish()
        if self._runs and self._held:
            self._spill()
        elif self._held:
            self._held = [self._sorted()]

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield all rows in order of time, in frames that fit into memory; call `finish` before this."""
        found = _in_larger_frames(self._merged()) if self._runs else iter(self._held)
        yield from found if self._versions is None else map(self._versions.marked, found)

    def close(self) -> None:
        """Free the memory of the sorter, and delete its sorted runs on the disk."""
        self._held, self._runs, self._versions = [], [], None
        if self._delete is not None:
            self._delete()

    def _sorted(self) -> pl.DataFrame:
        rows = pl.concat(self._held)
        self._held, self._held_bytes = [], 0
        at = rows["timestamp"].to_physical()
        return rows if at.is_sorted() else rows.sort("timestamp", maintain_order=True)

    def _spill(self) -> None:
        path = self._run_folder() / f"{len(self._runs)}.arrow"
        rows = self._sorted()
        block_rows = max(1, len(rows) // _BLOCKS)
        rows.write_ipc(path, record_batch_size=block_rows, compat_level=pl.CompatLevel.oldest())
        self._runs.append(path)

    def _run_folder(self) -> Path:
        """Return the hidden folder of the sorted runs; create it before the first sorted run is written.

        The folder is deleted with this object or at the end of the process.
        """
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
            last_times_us = [run.last_us for run in runs if run.has_more]
            if not last_times_us:
                break
            # Take only rows before ``bound_us``: the next block of a run may have more rows at this time.
            # Rows with equal times must stay in the order of the runs.
            bound_us = min(last_times_us)
            ready = [run.take_before(bound_us) for run in runs]
            yield from _in_order(ready)
            for run in runs:
                if run.has_more and run.last_us == bound_us:
                    run.read_on()
        yield from _in_order([run.block for run in runs])


def _in_larger_frames(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join frames to larger frames of at least `_FRAME_ROWS` rows each; the last frame may be smaller."""
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
    """A sorted run that is read block by block; ``block`` holds the rows that are read but not merged yet."""

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._next = 0
        self.block = observations.empty()
        self.read_on()

    @property
    def has_more(self) -> bool:
        """Whether the file of this sorted run has more blocks to read."""
        return self._next < int(self._file.num_record_batches)

    @property
    def last_us(self) -> int:
        """The time of the last row that was read from the run, in microseconds."""
        return self._last_us

    def read_on(self) -> None:
        read = cast(pl.DataFrame, pl.from_arrow(self._file.get_batch(self._next)))
        self._next += 1
        self._last_us = int(read["timestamp"].to_physical()[-1])
        self.block = pl.concat([self.block, read], rechunk=True) if len(self.block) else read

    def take_before(self, us: int) -> pl.DataFrame:
        """Remove the rows before the time ``us`` from the block, and return these rows."""
        cut = int(self.block["timestamp"].to_physical().search_sorted(us, side="left"))
        taken, self.block = self.block[:cut], self.block[cut:]
        return taken
