"""Write and read manifests, which record input files so that a resume finds each row at the same offset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from pipelines.storage import Journal, Location, output_errors, store_of, write_text
from schemas.errors import DataError
from schemas.sealed import seal, unseal

FOLDER_MANIFEST: Final = "folder.jsonl"
"""Name of the manifest of a watched folder, in the folder of the state table."""

_FIX = "restore the file, or start again with --fresh"


def check_replay(manifest: Location, paths: Sequence[str], how: str, offset: int, now_s: float) -> float:
    """Check that a resumed replay has its original files and settings; write the manifest of a new replay.

    Args:
        manifest: the JSON file.
        paths: files of the replay.
        how: the settings by which the files are read, as text.
        offset: the offset from which the replay reads.
        now_s: wall clock, seconds since 1970.

    Returns:
        The wall clock at which the replay began. A resumed replay compares rows with this clock, so that it
        rejects the same rows as in the future.

    Raises:
        DataError: a file or the settings have changed, or the manifest cannot be read, or is missing although
            ``offset`` is greater than 0.
        OutputError: the manifest cannot be written.
    """
    files = [_identity(path) for path in paths]
    begun = _read_manifest(manifest)
    if begun is None:
        if offset:
            raise DataError(
                f"{manifest}: is missing, so the rows read before are unknown: start again in another folder"
            )
        with output_errors(f"{manifest}: cannot be written"):
            store_of(manifest.parent).make_folder()
            write_text(manifest, seal({"now_s": now_s, "how": how, "files": files}), kept=True)
        return now_s
    before = begun.files
    changed = next((file for file in [*files, *before] if (file in files) != (file in before)), None)
    if changed is not None or files != before:
        which = files[0][0] if changed is None else changed[0]
        raise DataError(
            f"{which}: the files differ from those that this replay began with: restore those files, or "
            "start again in another folder"
        )
    if begun.how != how:
        raise DataError(
            f"{paths[0]}: the data settings differ from those that this replay began with: restore them, "
            "or start again in another folder"
        )
    return begun.now_s


@checked(config=ConfigDict(extra="forbid"))
class _ReplayManifest:
    """The content of a replay's manifest: when the replay began, and its settings and files."""

    now_s: float
    how: str
    files: list[tuple[str, int, int]]


def _read_manifest(manifest: Location) -> _ReplayManifest | None:
    try:
        return TypeAdapter(_ReplayManifest).validate_json(
            json.dumps(unseal(manifest.read_bytes())), strict=True
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest}: cannot be read ({_reason(error)}): {_FIX}") from None


def _reason(error: OSError | ValueError) -> str:
    """Return as one line why a manifest cannot be read."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@dataclass(frozen=True)
class Entry:
    """The record of one file of a watched folder that was read, or that could not be read.

    Attributes:
        name: the name of the file in the folder.
        size: its size in bytes.
        mtime_ns: its modification time, in nanoseconds since 1970.
        first: the offset of its first row.
        stop: one past the offset of its last row; at least ``first + 1``.
        arrived_s: wall clock (seconds since 1970) at which the file was found.
        watermark_us: the watermark after the file, in microseconds; None before the first valid row.
        problem: the reason why the file could not be read; "" if it was read.
    """

    name: str
    size: int
    mtime_ns: int
    first: int
    stop: int
    arrived_s: float
    watermark_us: int | None
    problem: str = ""

    @property
    def identity(self) -> tuple[str, int, int]:
        """Name, size and modification time; if a file is changed or replaced, it gets another identity."""
        return self.name, self.size, self.mtime_ns


class FolderManifest:
    """The list of the files of a watched folder, in the order in which they were read.

    The manifest is a file with one line of JSON for each entry; lines are only appended.

    Attributes:
        path: the file.
        stop: the next free offset.
        watermark_us: the watermark at ``stop``, in microseconds; None before the first valid row.
    """

    def __init__(self, path: Location) -> None:
        """Open the manifest; create it if it does not exist.

        Raises:
            DataError: the file is not a manifest.
            OutputError: the file cannot be written.
        """
        self.path = path
        with output_errors(f"{path}: cannot write here", fix="name another folder"):
            self._journal = Journal(path)
            if not path.exists():
                store_of(path.parent).make_folder()
                self._journal.replace(())
        self.stop = 0
        self.watermark_us: int | None = None
        self._known: set[tuple[str, int, int]] = set()
        self._numbers: dict[str, int] = {}
        for entry in self.entries(0):
            self._index(entry)

    def __contains__(self, identity: object) -> bool:
        """Return whether the manifest has an entry with this `Entry.identity`."""
        return identity in self._known

    def entries(self, offset: int) -> Iterator[Entry]:
        """Read the manifest and yield the entries that have rows at or after ``offset``.

        Raises:
            DataError: the manifest cannot be read, or a line is not an entry.
        """
        try:
            for number, record in self._journal.records():
                entry = _entry(record, number)
                if entry.stop > offset:
                    yield entry
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: {_reason(error)}: {_FIX}") from None

    def add(self, entry: Entry) -> None:
        """Append an entry to the manifest, and wait until it survives a loss of power.

        Raises:
            OutputError: the manifest cannot be written.
        """
        with output_errors(f"{self.path}: cannot be written"):
            self._journal.add(asdict(entry))
        self._index(entry)

    def _index(self, entry: Entry) -> None:
        self.stop, self.watermark_us = entry.stop, entry.watermark_us
        self._known.add(entry.identity)
        self._numbers.setdefault(entry.name, len(self._numbers))

    def number(self, name: str) -> int:
        """Return the number of a file name: names are numbered from 0 in the order of the manifest."""
        return self._numbers[name]


def _identity(input_file: str) -> tuple[str, int, int]:
    try:
        found = os.stat(input_file)
    except OSError as error:
        raise DataError(f"{input_file}: cannot be read ({error.strerror})") from None
    return input_file, found.st_size, found.st_mtime_ns


_ENTRY = TypeAdapter(Entry)


def _entry(record: dict[str, Any], number: int) -> Entry:
    try:
        if unknown := record.keys() - Entry.__dataclass_fields__.keys():
            raise ValueError(f"unknown field {min(unknown)}")
        return _ENTRY.validate_json(json.dumps(record), strict=True)
    except ValueError as error:
        raise ValueError(f"line {number} is not an entry of a manifest ({_reason(error)})") from None
