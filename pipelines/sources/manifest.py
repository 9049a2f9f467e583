"""What a source must find again after a restart, on disk: which files its offsets stand for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from pipelines.storage import Journal, Location, make_folder, write_text
from schemas.errors import DataError, OutputError
from schemas.sealed import seal, unseal

_ANEW = "put it back as it was, or begin anew with --fresh"


def check_replay(manifest: Location, paths: Sequence[str], how: str, offset: int, now_s: float) -> float:
    """Checks that a replay is of the files it was begun with; writes their manifest if it begins here.

    Args:
        manifest: the JSON file.
        paths: files of the replay.
        how: how they are read, as text.
        offset: where the replay goes on.
        now_s: wall clock, seconds since 1970.

    Returns:
        The wall clock at which the replay was begun: what it took for the future it must take for it again.

    Raises:
        DataError: a file is not as it was, there is no manifest for this ``offset``, or it cannot be read.
        OutputError: the manifest cannot be written.
    """
    files = [_identity(path) for path in paths]
    begun = _begun(manifest)
    if begun is None:
        if offset:
            raise DataError(
                f"{manifest}: is gone, so nobody knows which rows came before: begin anew, in another folder"
            )
        try:
            make_folder(manifest.parent)
            write_text(manifest, seal({"now_s": now_s, "how": how, "files": files}), kept=True)
        except OSError as error:
            raise OutputError(f"{manifest}: cannot be written ({error.strerror})") from error
        return now_s
    then = begun.files
    other = next((file for file in [*files, *then] if (file in files) != (file in then)), None)
    if other is not None or files != then:
        which = files[0][0] if other is None else other[0]
        raise DataError(
            f"{which}: the files are not those that this replay was begun with: put them back, or begin anew "
            "in another folder"
        )
    if begun.how != how:
        raise DataError(
            f"{paths[0]}: the data settings are not those that this replay was begun with: set them back, "
            "or begin anew in another folder"
        )
    return begun.now_s


@checked(config=ConfigDict(extra="forbid"))
class _Begun:
    """What the manifest of a replay holds; see `check_replay`."""

    now_s: float
    how: str
    files: list[tuple[str, int, int]]


def _begun(manifest: Location) -> _Begun | None:
    try:
        return TypeAdapter(_Begun).validate_json(json.dumps(unseal(manifest.read_bytes())), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest}: cannot be read ({_reason(error)}): {_ANEW}") from None


def _reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@dataclass(frozen=True)
class Entry:
    """A file of a watched folder that was read.

    Attributes:
        name: its name in the folder.
        size: its bytes.
        mtime_ns: when it was written last.
        first: offset of its first row.
        stop: one past the offset of its last; at least ``first + 1``.
        arrived_s: wall clock (seconds since 1970) at which it was there.
        watermark_us: the watermark after it; None before the first.
        problem: why it could not be read; "" if it could.
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
        """What tells the file from another of its name."""
        return self.name, self.size, self.mtime_ns


class FolderManifest:
    """The files of a watched folder in the order they were read, a line of JSON each; lines are only added.

    Attributes:
        path: the file.
        stop: the next free offset.
        watermark_us: the watermark there; None before the first row.
    """

    def __init__(self, path: Location) -> None:
        """Opens the manifest, or makes one.

        Raises:
            DataError: it is no manifest.
            OutputError: it cannot be written.
        """
        self.path = path
        try:
            self._journal = Journal(path)
            if not path.exists():
                make_folder(path.parent)
                self._journal.replace(())
        except OSError as error:
            raise OutputError(f"{path}: cannot write here ({error.strerror}): name another folder") from error
        self.stop = 0
        self.watermark_us: int | None = None
        self._known: set[tuple[str, int, int]] = set()
        self._numbers: dict[str, int] = {}
        for entry in self.entries(0):
            self._keep(entry)

    def __contains__(self, identity: object) -> bool:
        """Whether a file, by name, size and modification time, was read."""
        return identity in self._known

    def entries(self, offset: int) -> Iterator[Entry]:
        """The entries with offsets from ``offset`` on, from disk."""
        try:
            for number, record in self._journal.records():
                entry = _entry(record, number)
                if entry.stop > offset:
                    yield entry
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: {_reason(error)}: {_ANEW}") from None

    def add(self, entry: Entry) -> None:
        """Adds a file; on return it is on disk for good.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._journal.add(asdict(entry))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        self.stop, self.watermark_us = entry.stop, entry.watermark_us
        self._known.add(entry.identity)
        self._numbers.setdefault(entry.name, len(self._numbers))

    def number(self, name: str) -> int:
        """The number of a file's name, from 0: that of the first entry of this name among all names."""
        return self._numbers[name]


def _identity(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return path, found.st_size, found.st_mtime_ns


_ENTRY = TypeAdapter(Entry)


def _entry(record: dict[str, Any], number: int) -> Entry:
    try:
        if unknown := record.keys() - Entry.__dataclass_fields__.keys():
            raise ValueError(f"{min(unknown)} is unknown here")
        return _ENTRY.validate_json(json.dumps(record), strict=True)
    except ValueError as error:
        raise ValueError(f"line {number} is no entry of a manifest ({_reason(error)})") from None
