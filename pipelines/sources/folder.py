"""A folder that files are put into: one partition, whose offsets a manifest on disk gives to the files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import polars as pl

from forecaster.shards.batch import Batch
from forecaster.time.windows import MICROSECONDS, ORIGIN
from pipelines.sources.base import Step
from pipelines.sources.files.listing import Found, Listing, identity_of
from pipelines.sources.files.overlaps import WideFiles
from pipelines.sources.files.sensors import refuse_nameless
from pipelines.sources.files.tables import layout_of
from pipelines.sources.files.validated_rows import (
    Input,
    Part,
    WholeFile,
    bad_file,
    read_file,
    read_through,
    rows_of,
)
from pipelines.sources.manifest import Entry, FolderManifest
from pipelines.storage import Location
from schemas import observations, quarantine
from schemas.errors import DataError

PARTITION = "folder"

_STEP_BYTES = 32 << 20  # of a large file, so much at once


@dataclass(frozen=True)
class FolderSource:
    """A folder that files are put into; each is read once, in the order of names among those that are ready.

    Names that begin with ``.`` or ``_`` and names of no known kind of file are left alone, so that a writer
    can write under such a name and rename; one that stays for ``settle_s`` is a rejected row, as a folder in
    the folder is. The offset of a row is that of its file's first plus its place in
    the file. A file goes into the manifest once it is known that all of it can be read, and only then on.
    The watermark moves at the end of a file, to its newest good row less the lateness, and never past the
    wall clock of the file's arrival.

    Attributes:
        folder: the folder.
        input: how to read its files; with ``skip_bad_files``, one that cannot be read is a rejected row.
        manifest_folder: where the manifest is kept.
        lateness_s: how far the watermark stays behind the newest row.
        poll_s: seconds between looks at the folder.
        settle_s: a file that is not whole and was not written to for so long will not become whole.
        memory_bytes: a file is held if it takes less; of a larger one it is read twice.
        clock: wall clock, for tests.
    """

    folder: Path
    input: Input
    manifest_folder: Location
    lateness_s: int = 0
    poll_s: float = 1.0
    settle_s: float = 10.0
    memory_bytes: int = 512 << 20
    clock: Callable[[], float] = time.time

    @property
    def partition(self) -> str:
        """See `Source`."""
        return PARTITION

    @property
    def is_paced(self) -> bool:
        """See `Source`."""
        return True

    def step(self, offset: int) -> Step | None:
        """See `Source`; a watched folder has no end.

        Raises:
            DataError: the folder is gone, a file cannot be read and is not to be skipped, or the manifest
                does not reach ``offset``.
        """
        return _watch_of(self).step(offset)


@lru_cache(maxsize=1)  # one listing of the folder serves many steps
def _watch_of(source: FolderSource) -> _Watch:
    return _Watch(source)


def forget() -> None:
    """Forgets what an earlier job in this process has read: a new one looks at the disk."""
    _watch_of.cache_clear()


class _Watch:
    """A folder as far as it was read: files to read again, then those that the last look found."""

    def __init__(self, source: FolderSource) -> None:
        self.source = source
        self.manifest = FolderManifest(source.manifest_folder / "folder.jsonl")
        self.listing = Listing(source.folder, source.settle_s)
        self.offset: int | None = None
        self.again: Iterator[Entry] = iter(())
        self.ready: deque[Found] = deque()
        self.batches: Iterator[Batch] = iter(())
        self.next_look_s = 0.0
        self.wide_files: WideFiles | None = None

    def step(self, offset: int) -> Step:
        if offset != self.offset:
            self._seek(offset)
        try:
            batches = self._some()
        except BaseException:
            self.offset = None  # the batches ended there; asked again, begin again
            raise
        if not batches:
            return Step((), offset, self.next_look_s - self.source.clock())
        self.offset = batches[-1].stop
        return Step(batches, self.offset)

    def _seek(self, offset: int) -> None:
        if offset > self.manifest.stop:
            raise DataError(
                f"{self.manifest.path}: ends at row {self.manifest.stop:,}, but rows up to {offset:,} were "
                "read: put the manifest back, or begin anew in another folder"
            )
        self.offset, self.batches = offset, iter(())
        self.again = self.manifest.entries(offset) if offset < self.manifest.stop else iter(())

    def _some(self) -> tuple[Batch, ...]:
        """The next batches of one file; none if no file is ready."""
        while True:
            taken: list[Batch] = []
            size_bytes = 0
            while size_bytes < _STEP_BYTES and (batch := next(self.batches, None)) is not None:
                taken.append(batch)
                size_bytes += int(batch.rows.estimated_size() + batch.rejected.estimated_size())
            if taken or not self._open_next():
                return tuple(taken)

    def _open_next(self) -> bool:
        entry = next(self.again, None)
        if entry is not None:
            self.batches = self._read_again(entry)
            return True
        if not self.ready:
            self._look()
        while self.ready:
            # a file that stops the stream stays the next one
            batches = self._read_new(self.ready[0])
            self.ready.popleft()
            if batches is not None:
                self.batches = batches
                return True
        return False

    def _look(self) -> None:
        now_s = self.source.clock()
        if 0 < self.next_look_s - now_s <= self.source.poll_s:
            return
        self.ready.extend(self.listing.look(now_s, self.manifest))
        self.next_look_s = now_s if self.ready else now_s + self.source.poll_s

    def _read_new(self, found: Found) -> Iterator[Batch] | None:
        """The batches of a file, which is in the manifest from here on; None if it is not ready after all."""
        source, problem = self.source, ""
        columns = source.input.columns
        if found.left_out:
            problem = f"{found.path}: left out: {found.left_out}"
            return self._entered(
                found, WholeFile((bad_file(found.path, DataError(problem)),), 1, None), problem
            )
        try:
            layout = layout_of(found.path, columns)
            refuse_nameless(found.path, layout, columns)
            self._wide_files().take(found.path, layout)
            whole = read_through(found.path, source.input, found.arrived_s, source.memory_bytes)
        except DataError as error:
            if not found.is_settled:
                self.listing.put_off(found)
                return None
            whole, problem = WholeFile((bad_file(found.path, error),), 1, None), str(error)
        if identity_of(found.path) != found.identity:
            return None  # it has vanished, or is another one: the next look decides
        if problem and not source.input.skip_bad_files:
            raise DataError(problem)
        return self._entered(found, whole, problem)

    def _wide_files(self) -> WideFiles:
        """The wide files that were read, those of earlier runs among them."""
        source = self.source
        if self.wide_files is None:
            read = partial(rows_of, how=source.input, now_s=source.clock())
            self.wide_files = WideFiles(source.input.columns, read, source.memory_bytes)
            earlier = (entry.name for entry in self.manifest.entries(0) if not entry.problem)
            self.wide_files.remember(source.folder / name for name in earlier)
        return self.wide_files

    def _entered(self, found: Found, whole: WholeFile, problem: str) -> Iterator[Batch]:
        """The batches of a file, once it is in the manifest."""
        first = self.manifest.stop
        name, size, mtime_ns = found.identity
        stop, watermark_us = first + whole.stop, self._watermark_us(whole, found)
        reason = problem.removeprefix(f"{found.path}: ")
        entry = Entry(name, size, mtime_ns, first, stop, found.arrived_s, watermark_us, reason)
        self.manifest.add(entry)
        parts = whole.parts
        return self._batches(entry, self._parts(entry, 0) if parts is None else parts, first)

    def _watermark_us(self, whole: WholeFile, found: Found) -> int | None:
        before = self.manifest.watermark_us
        if whole.newest_us is None:
            return before
        after = whole.newest_us - self.source.lateness_s * MICROSECONDS
        after = min(after, int(found.arrived_s * MICROSECONDS))
        return after if before is None else max(before, after)

    def _read_again(self, entry: Entry) -> Iterator[Batch]:
        assert self.offset is not None
        start = max(self.offset, entry.first)
        return self._batches(entry, self._parts(entry, start - entry.first), start)

    def _parts(self, entry: Entry, skip_rows: int) -> Iterator[Part]:
        path = self.source.folder / entry.name
        if entry.problem:
            yield bad_file(path, DataError(entry.problem))
            return
        if identity_of(path) != entry.identity:
            raise DataError(f"{path}: was read before, and is gone or another one now")
        yield from read_file(path, self.source.input, entry.arrived_s, skip_rows)

    def _batches(self, entry: Entry, parts: Iterable[Part], start: int) -> Iterator[Batch]:
        """The parts of a file as batches that between them cover its offsets from ``start`` on."""
        covering = self._covering(entry, parts, start - entry.first)
        part: Part | None = next(covering, Part(_NO_ROWS, _NONE_REJECTED, 0, 0))
        while part is not None:
            following = next(covering, None)
            stop = entry.stop if following is None else entry.first + part.stop
            rows = part.rows.with_columns(
                pl.col("offset") + entry.first,
                # a file that grows is read again under its name: its first rows are known by their places
                (pl.col("offset") + (self.manifest.number(entry.name) << 32)).alias(ORIGIN),
            )
            rejected = part.rejected.with_columns(pl.col("offset") + entry.first)
            watermark_us = entry.watermark_us if following is None else None
            yield Batch(PARTITION, start, stop, rows, rejected, watermark_us, part.outside, entry.arrived_s)
            start, part = stop, following

    def _covering(self, entry: Entry, parts: Iterable[Part], place: int) -> Iterator[Part]:
        """The parts that hold anything; where a file that was whole fails, a rejected row for its rest."""
        rows, path = entry.stop - entry.first, self.source.folder / entry.name
        try:
            for part in parts:
                if part.stop > rows:
                    raise DataError(f"{path}: was changed while it was read")
                if part.stop > place:
                    place = part.stop
                    yield part
        except DataError as error:
            if place < rows:
                yield bad_file(path, error, place)


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)
