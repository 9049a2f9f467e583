"""Files and folders on a disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from forecaster import durable
from pipelines.storage import disk_lock, markers, moved_parts
from pipelines.storage.output_errors import cannot_write
from pipelines.storage.store import Held, Store, T, Target
from schemas.errors import OutputError


class DiskStore(Store):
    """A file or folder on a disk: files are written under a hidden name, synced and renamed."""

    has_folders = True
    bills_requests = False
    can_append = True

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def on_disk(self) -> Path:
        """The path."""
        return self._path

    def write_whole(
        self,
        write: Callable[[Target], object],
        *,
        kept: bool = False,
        is_ours: Callable[[], bool] | None = None,
    ) -> bool:
        """Write the file under a hidden name, and rename it."""
        return durable.write_whole(self._path, write, kept=kept, is_ours=is_ours)

    def version(self) -> str:
        """Return "", because files have no versions."""
        return ""

    def write_owned(
        self, write: Callable[[Target], object], seen: str, is_ours: Callable[[], bool]
    ) -> str | None:
        """Replace the file after a check of its owner."""
        return "" if self.write_whole(write, kept=True, is_ours=is_ours) else None

    def source(self) -> Path:
        """Return the path."""
        return self._path

    def written_ns(self) -> int:
        """Return the modification time."""
        return self._path.stat().st_mtime_ns

    written_before_ns = written_ns

    def sync(self) -> None:
        """Sync the file or folder."""
        durable.sync_path(self._path)

    def append(self, data: bytes) -> None:
        """Append to the file and sync it; if that fails, truncate the file to its earlier size."""
        is_new = not self._path.exists()
        durable.make_folder(self._path.parent)
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)  # the next line must not follow an incomplete one
                raise
        if is_new:
            durable.sync_path(self._path.parent)

    def remove_incomplete_line(self) -> None:
        """Truncate the file to its last line break, if it does not end with one."""
        with suppress(FileNotFoundError):
            whole = self._path.read_bytes()
            if whole and not whole.endswith(b"\n"):
                with self._path.open("r+b") as file:
                    file.truncate(whole.rfind(b"\n") + 1)
                    os.fsync(file.fileno())

    def make_folder(self) -> None:
        """Create the folder and its parents, and sync their names."""
        durable.make_folder(self._path)

    def prepare(self, parts: Iterable[str]) -> None:
        """Create the folder and its parts, and remove the temporary files in them."""
        self.check_writable()
        try:
            for folder in (self._path, *(self._path / part for part in parts)):
                durable.make_folder(folder)
                durable.remove_temporaries(folder)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def remove_tree(self) -> None:
        """Remove the folder and its content."""
        shutil.rmtree(self._path, ignore_errors=True)

    def free_bytes(self) -> int:
        """Return the free bytes of the disk, which holds the nearest parent that exists."""
        return shutil.disk_usage(self._nearest()).free

    def check_writable(self) -> None:
        """Create a temporary file in the nearest parent that exists."""
        there = self._nearest()
        if not there.is_dir():
            raise OutputError(f"{there} is a file, not a folder: name another folder")
        try:
            # Create a file without a name: `os.access` returns True to root even on a read-only disk.
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise cannot_write(self._path.expanduser().absolute(), error) from error

    def _nearest(self) -> Path:
        folder = self._path.expanduser().absolute()
        return next(place for place in (folder, *folder.parents) if os.path.lexists(place))

    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Path:
        """Copy the files of the folder; link those that never change."""
        target = self._path.with_name(name)
        durable.make_folder(target)
        for path in self._path.glob("[!.]*"):
            copy = target / path.name
            if path.is_dir():  # a table of format 1 has subfolders
                shutil.copytree(path, copy)
                durable.sync_tree(copy)
                continue
            if never_change(path.name):
                with suppress(OSError):  # not every file system has hard links
                    os.link(path, copy)
                    continue
            durable.write_bytes(copy, path.read_bytes())
        durable.sync_path(target)
        return target

    @contextmanager
    def locked(self) -> Iterator[Held]:
        """Hold a lock of the kernel."""
        with disk_lock.locked(self._path, lambda: self.prepare(())):
            yield Held()

    def was_locked(self) -> bool:
        """Return whether a lock file exists."""
        return (self._path / markers.LOCK).exists()

    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        """Rename the parts."""
        moved_parts.move_all(self._path / hidden, self._path, parts)

    def complete_replacement(self, hidden: str) -> None:
        """Complete the renames."""
        moved_parts.complete(self._path / hidden, self._path)

    def read_consistently(self, read: Callable[[Path], T]) -> T:
        """Read the folder, which is replaced by renames."""
        return read(self._path)
