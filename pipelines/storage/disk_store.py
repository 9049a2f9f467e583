"""Implement the operations on files and folders on a disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from forecaster import durable
from pipelines.storage import disk_lock, moved_parts
from pipelines.storage.output_errors import folder_errors
from pipelines.storage.store import Held, Store, T, Target
from schemas.errors import OutputError


class DiskStore(Store):
    """A file or folder on a disk; `write_whole` writes under a hidden name, syncs, and renames the file."""

    bills_requests = False
    can_append = True

    def __init__(self, path: Path) -> None:
        self._path = self.on_disk = path

    def write_whole(
        self,
        write: Callable[[Target], object],
        *,
        kept: bool = False,
        is_ours: Callable[[], bool] | None = None,
        seen: str | None = None,
    ) -> str | None:
        return "" if durable.write_whole(self._path, write, kept=kept, is_ours=is_ours) else None

    def version(self) -> str:
        return ""

    def append(self, data: bytes) -> None:
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
                os.ftruncate(file.fileno(), size)
                raise
        if is_new:
            durable.sync_path(self._path.parent)

    def remove_incomplete_line(self) -> None:
        whole = self._path.read_bytes() if self._path.exists() else b""
        if whole and not whole.endswith(b"\n"):
            with self._path.open("r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
                os.fsync(file.fileno())

    def source(self) -> Path:
        return self._path

    def open_parts(self) -> IO[bytes]:
        return self._path.open("rb")

    def written_ns(self) -> int:
        return self._path.stat().st_mtime_ns

    def sync(self) -> None:
        durable.sync_path(self._path)

    def make_folder(self) -> None:
        durable.make_folder(self._path)

    def remove_tree(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)

    def check_writable(self) -> int:
        folder = self._path.expanduser().absolute()
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not there.is_dir():
            raise OutputError(f"{there} is a file, not a folder: name another folder")
        with folder_errors(folder):
            # Create a file as the check: for root, `os.access` returns True even on a read-only disk.
            with tempfile.TemporaryFile(dir=there):
                pass
            return shutil.disk_usage(there).free

    def prepare(self, parts: Iterable[str] = ()) -> None:
        self.check_writable()
        with folder_errors(self._path):
            for folder in (self._path, *(self._path / part for part in parts)):
                durable.make_folder(folder)
                durable.remove_temporaries(folder)

    @contextmanager
    def locked(self) -> Iterator[Held]:
        with disk_lock.locked(self._path, self.prepare):
            yield Held()

    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Path:
        target = self._path.with_name(name)
        durable.make_folder(target)
        for path in self._path.glob("[!.]*"):
            copy = target / path.name
            if never_change(path.name):
                with suppress(OSError):  # if the disk has no hard links, `write_bytes` copies the file
                    os.link(path, copy)
                    continue
            durable.write_bytes(copy, path.read_bytes())
        durable.sync_path(target)
        return target

    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        moved_parts.move_all(self._path / hidden, self._path, parts)

    def complete_replacement(self, hidden: str) -> None:
        moved_parts.complete(self._path / hidden, self._path)

    def read_consistently(self, read: Callable[[Path], T]) -> T:
        return read(self._path)
