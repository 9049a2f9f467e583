"""Journals: files of sealed records that a job adds to and must find again as they were written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.storage.remote import Location, Remote
from pipelines.storage.whole import make_folder, sync_folder, write_text
from schemas.sealed import seal, unseal


class Journal:
    """A file of sealed records, one a line, that one process adds to.

    A crash may leave the last line half written. Nothing was built on it, since `add` had not returned; so
    it is cut off when the journal is opened.
    """

    def __init__(self, path: Location) -> None:
        """Open a journal; its file is made with the first record.

        Raises:
            OSError: it cannot be read or written.
        """
        self.path = path
        if isinstance(path, Path) and path.exists():  # in an object store it is always whole
            whole = path.read_bytes()
            if whole and not whole.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(whole.rfind(b"\n") + 1)
                    os.fsync(file.fileno())

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the records on the disk, each with the number of its line.

        Raises:
            OSError: the journal cannot be read.
            ValueError: a line is no sealed record; the text names the line.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, unseal(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record; on return it survives a loss of power.

        In an object store, which cannot append, all lines are put anew.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        line = seal(record).encode() + b"\n"
        if isinstance(self.path, Remote):
            self.path.write_bytes((self.path.read_bytes() if self.path.exists() else b"") + line)
        else:
            _append(self.path, line)

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the journal anew, in one step; on return it survives a loss of power.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        write_text(self.path, "".join(f"{seal(record)}\n" for record in records), kept=True)


def _append(path: Path, line: bytes) -> None:
    is_new = not path.exists()
    make_folder(path.parent)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # the next line must not follow half of this one
            raise
    if is_new:
        sync_folder(path.parent)
