"""Read files from a watched folder, as one partition; a manifest records the offsets of each file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from forecaster.shards.batch import Batch
from forecaster.time.duplicates import ORIGIN
from forecaster.time.windows import MICROSECONDS
from pipelines.sources.base import Step, opened
from pipelines.sources.files.file_identity import identity_of
from pipelines.sources.files.listing import Listing, ReadyFile
from pipelines.sources.files.opened_file import open_file
from pipelines.sources.files.overlaps import WideFiles
from pipelines.sources.files.sensors import refuse_unnamed_series
from pipelines.sources.files.validated_rows import (
    Input,
    Part,
    WholeFile,
    bad_file,
    read_file,
    read_to_end,
    rows_of,
)
from pipelines.sources.manifest import FOLDER_MANIFEST, Entry, FolderManifest
from pipelines.storage import Location
from schemas import observations, quarantine
from schemas.errors import DataError

PARTITION = "folder"

_STEP_BYTES = 32 << 20  # `step` adds no further batch once its batches hold this many bytes


@dataclass(frozen=True)
class FolderSource:
    """Watches a folder, and reads the new and changed files in it.

    Files that are ready at the same time are read in the order of their names. Names that begin with ``.`` or
    ``_``, and names with an unknown suffix, are not read, so that a writer can write under such a name and
    rename the file when it is complete. A name of this kind that stays for ``settle_s`` becomes a rejected
    row, and so does a folder in the folder.

    The offset of a row is the first offset of its file plus the position of the row in the file. A file is
    checked to its end before it is added to the manifest, and its rows are used only after that. The
    watermark moves at the end of a file, to the time of the file's newest valid row minus the lateness, but
    never past the wall clock at which the file arrived.

    Attributes:
        folder: the folder.
        input: the settings by which to read its files; with ``skip_bad_files``, an unreadable file becomes a
            rejected row.
        manifest_folder: the folder of the manifest.
        lateness_s: how far the watermark stays behind the newest row.
        poll_s: seconds between two listings of the folder.
        settle_s: seconds without a write after which an incomplete file is taken to stay incomplete.
        memory_bytes: a file whose rows need at most this is kept in memory after the check; a larger file is
            read twice.
        clock: returns the wall clock, in seconds since 1970; tests set another one.
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
        """The name of the only partition; see `Source`."""
        return PARTITION

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time: True for a watched folder; see `Source`."""
        return True

    def step(self, offset: int) -> Step[int] | None:
        """Read the rows from ``offset`` on; never return None, because a watched folder has no end.

        Raises:
            DataError: the folder does not exist, a file cannot be read and may not be skipped, or the
                manifest ends before ``offset``.
        """
        return opened(self, _Watch).step(offset)


class _Watch:
    """Reads the files of a watched folder: first the files in the manifest, then new files."""

    def __init__(self, source: FolderSource) -> None:
        self.source = source
        self.manifest = FolderManifest(source.manifest_folder / FOLDER_MANIFEST)
        self.listing = Listing(source.folder, source.settle_s)
        self.offset: int | None = None
        self.again: Iterator[Entry] = iter(())
        self.ready: deque[ReadyFile] = deque()
        self.batches: Iterator[Batch] = iter(())
        self.next_look_s = 0.0
        self.wide_files: WideFiles | None = None

    def close(self) -> None:
        """Do nothing: a file that is still open closes when the iterator of its batches is deleted."""

    def step(self, offset: int) -> Step[int]:
        if offset != self.offset:
            self._seek(offset)
        try:
            batches = self._next_batches()
        except BaseException:
            # The error may have ended the generator `self.batches`. Without an offset, the next step calls
            # `_seek`, and opens the file again.
            self.offset = None
            raise
        if not batches:
            return Step((), offset, self.next_look_s - self.source.clock())
        self.offset = batches[-1].stop
        return Step(batches, self.offset)

    def _seek(self, offset: int) -> None:
        if offset > self.manifest.stop:
            raise DataError(
                f"{self.manifest.path}: ends at row {self.manifest.stop:,}, but rows up to {offset:,} were "
                "read: restore the manifest, or start again in another folder"
            )
        self.offset, self.batches = offset, iter(())
        self.again = self.manifest.entries(offset) if offset < self.manifest.stop else iter(())

    def _next_batches(self) -> tuple[Batch, ...]:
        """Return the next batches of the file being read or of the next file; () if no file is ready."""
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
            self.batches = self._batches_again(entry)
            return True
        if not self.ready:
            self._find_new_files()
        while self.ready:
            # Remove a file from the queue only after `_new_batches` has returned: if it raises an error, the
            # file is read again.
            batches = self._new_batches(self.ready[0])
            self.ready.popleft()
            if batches is not None:
                self.batches = batches
                return True
        return False

    def _find_new_files(self) -> None:
        now_s = self.source.clock()
        if 0 < self.next_look_s - now_s <= self.source.poll_s:
            return
        self.ready.extend(self.listing.look(now_s, self.manifest))
        self.next_look_s = now_s if self.ready else now_s + self.source.poll_s

    def _new_batches(self, found: ReadyFile) -> Iterator[Batch] | None:
        """Add a file to the manifest and return its batches; return None to leave it to a later listing."""
        source, problem = self.source, ""
        columns = source.input.columns
        if found.left_out:
            problem = f"{found.path}: left out: {found.left_out}"
            return self._add_to_manifest(
                found, WholeFile((bad_file(found.path, DataError(problem)),), 1, None), problem
            )
        try:
            file = open_file(found.path, columns)
            refuse_unnamed_series(found.path, file.layout, columns)
            self._wide_files().take(found.path, file.layout)
            whole = read_to_end(file, source.input, found.arrived_s, source.memory_bytes)
        except DataError as error:
            if not found.is_settled:
                self.listing.postpone(found)
                return None
            whole, problem = WholeFile((bad_file(found.path, error),), 1, None), str(error)
        if identity_of(found.path) != found.identity:
            # The file was changed or removed while it was read; a later listing finds its new version.
            return None
        if problem and not source.input.skip_bad_files:
            raise DataError(problem)
        return self._add_to_manifest(found, whole, problem)

    def _wide_files(self) -> WideFiles:
        """Return the record of the last files in wide layout that this run and earlier runs have read.

        The first call creates the record from the manifest.
        """
        source = self.source
        if self.wide_files is None:
            read = partial(rows_of, how=source.input, now_s=source.clock())
            self.wide_files = WideFiles(source.input.columns, read, source.memory_bytes)
            earlier = (entry.name for entry in self.manifest.entries(0) if not entry.problem)
            self.wide_files.remember(source.folder / name for name in earlier)
        return self.wide_files

    def _add_to_manifest(self, found: ReadyFile, whole: WholeFile, problem: str) -> Iterator[Batch]:
        """Add a file, even if it could not be read, to the manifest; return the batches of the file."""
        first = self.manifest.stop
        name, size, mtime_ns = found.identity
        stop, watermark_us = first + whole.stop, self._watermark_us(whole, found)
        reason = problem.removeprefix(f"{found.path}: ")
        entry = Entry(name, size, mtime_ns, first, stop, found.arrived_s, watermark_us, reason)
        self.manifest.add(entry)
        parts = whole.parts
        return self._batches(entry, self._parts(entry, 0) if parts is None else parts, first)

    def _watermark_us(self, whole: WholeFile, found: ReadyFile) -> int | None:
        before = self.manifest.watermark_us
        if whole.newest_us is None:
            return before
        after = whole.newest_us - self.source.lateness_s * MICROSECONDS
        after = min(after, int(found.arrived_s * MICROSECONDS))
        return after if before is None else max(before, after)

    def _batches_again(self, entry: Entry) -> Iterator[Batch]:
        assert self.offset is not None
        start = max(self.offset, entry.first)
        return self._batches(entry, self._parts(entry, start - entry.first), start)

    def _parts(self, entry: Entry, skip_rows: int) -> Iterator[Part]:
        path = self.source.folder / entry.name
        if entry.problem:
            yield bad_file(path, DataError(entry.problem))
            return
        if identity_of(path) != entry.identity:
            raise DataError(f"{path}: was read before, and has since been removed or replaced")
        yield from read_file(path, self.source.input, entry.arrived_s, skip_rows)

    def _batches(self, entry: Entry, parts: Iterable[Part], start: int) -> Iterator[Batch]:
        """Yield the parts of a file as batches that cover the offsets of the file from ``start`` on."""
        covering = self._parts_or_rejection(entry, parts, start - entry.first)
        part: Part | None = next(covering, Part(_NO_ROWS, _NONE_REJECTED, 0, 0))
        while part is not None:
            following = next(covering, None)
            stop = entry.stop if following is None else entry.first + part.stop
            rows = part.rows.with_columns(
                pl.col("offset") + entry.first,
                # The origin of a row has the manifest's number of the file name in its high bits, and the
                # row's position in the file in its low 32 bits.
                # If a file has grown and is read again, its earlier rows get the same origins as before, so
                # the aggregates sum and count do not include them twice.
                (pl.col("offset") + (self.manifest.number(entry.name) << 32)).alias(ORIGIN),
            )
            rejected = part.rejected.with_columns(pl.col("offset") + entry.first)
            watermark_us = entry.watermark_us if following is None else None
            yield Batch(PARTITION, start, stop, rows, rejected, watermark_us, part.outside, entry.arrived_s)
            start, part = stop, following

    def _parts_or_rejection(self, entry: Entry, parts: Iterable[Part], place: int) -> Iterator[Part]:
        """Yield the parts of a file that end after ``place``, the position of a row in the file.

        If reading fails before the last row, the last part is one rejected row with the error.
        """
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
