"""Append records with checksums to journals, from which a rerun reads them.

On a disk a journal is one file. An object store cannot append, so there each `Journal.add` creates a small
object beside the file: ``NAME-000000000001.jsonl`` and so on. After `MERGED_AT` small objects, all are merged
into the file. The first line of the file then holds the number of the last merged object. So each record is
read exactly once, even after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from pipelines.storage.files import store_of, write_text
from pipelines.storage.remote import Location
from schemas.sealed import seal, unseal

MERGED_AT: Final = 64
"""In an object store, `add` writes an object beside the journal; at this number, all are merged into it."""

_MERGED: Final = "merged_through"


class Journal:
    """A file to which one process appends records, one record with its checksum per line.

    A crash during `add` may leave an incomplete last line. Nothing depends on this line, because `add` has
    not returned. So opening the journal removes the line.
    """

    def __init__(self, path: Location) -> None:
        """Open a journal, which need not exist yet: its first record creates it.

        Args:
            path: path of the file; in an object store, the first records are objects beside this path.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: the journal was copied from an object store, and a line is not a sealed record.
        """
        self.path = path
        self._parts = _parts(path)
        self._through = _merged_through(path)
        self._store = store_of(path)
        if self._store.can_append:
            self._store.remove_incomplete_line()
            # On a disk, files such as ``NAME-000000000001.jsonl`` exist only if the journal was copied from
            # an object store. Merge them into one file, to which records can be appended.
            if self._parts:
                self.replace([record for _, record in self.records()])

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the records of the journal, each with its position; the first record has position 1.

        Raises:
            OSError: the journal cannot be read.
            ValueError: a line is not a sealed record; the message gives the position as ``line``.
        """
        number = 0
        for line in self._lines():
            number += 1
            try:
                record = unseal(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if _MERGED in record:
                number -= 1
            else:
                yield number, record

    def _lines(self) -> Iterator[bytes]:
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            yield from file
        for number, part in self._parts.items():
            if number > self._through:
                yield from part.read_bytes().splitlines()

    def add(self, *records: Mapping[str, Any]) -> None:
        """Append records to the journal, and wait until they survive a loss of power.

        Raises:
            OSError: the records cannot be written; the journal is unchanged.
        """
        lines = b"".join(seal(record).encode() + b"\n" for record in records)
        if self._store.can_append:
            self._store.append(lines)
            return
        number = max(self._through, *self._parts) + 1 if self._parts else self._through + 1
        part = self.path.with_name(_name(self.path, number))
        part.write_bytes(lines)
        self._parts[number] = part
        if len(self._parts) >= MERGED_AT:
            self.replace([record for _, record in self.records()])

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace all records of the journal in one step, and wait until they survive a loss of power.

        Raises:
            OSError: the new records cannot be written; the journal is unchanged.
        """
        through = max(self._parts, default=self._through)
        first = [{_MERGED: through}] if through else []
        write_text(self.path, "".join(f"{seal(record)}\n" for record in chain(first, records)), kept=True)
        for part in self._parts.values():
            # Ignore a failed deletion: `_lines` skips this object, because the file now has its records.
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._parts, self._through = {}, through


def _merged_through(path: Location) -> int:
    """Return the number of the last small object that was merged into a journal's file; 0 if none was."""
    with suppress(FileNotFoundError, ValueError), path.open("rb") as file:
        return int(unseal(file.readline()).get(_MERGED, 0))
    return 0


def _parts(path: Location) -> dict[int, Location]:
    """Return the objects with appended records of a journal in an object store, by ascending number."""
    stem = path.name.removesuffix(path.suffix)
    pattern = re.compile(rf"{re.escape(stem)}-(\d{{12}}){re.escape(path.suffix)}")
    found = [(pattern.fullmatch(one.name), one) for one in path.parent.glob(f"{stem}-*")]
    return dict(sorted((int(name[1]), one) for name, one in found if name))


def _name(path: Location, number: int) -> str:
    return f"{path.name.removesuffix(path.suffix)}-{number:012d}{path.suffix}"
