"""Which files of a folder are there whole: a writer that pauses holds up nobody but its own file."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.files import formats
from pipelines.sources.files.find_files import HIDDEN
from schemas.errors import DataError

Identity = tuple[str, int, int]
"""Name, size in bytes and modification time in nanoseconds: what tells a file from another of its name."""

_QUIET_S = 1.0  # text that ends with a line may go on with another: so long nobody must have written to it
_FOOTER = b"PAR1"


@dataclass(frozen=True)
class Found:
    """A file that can be read.

    Attributes:
        path: the file.
        identity: what it was when it was found.
        left_out: why a file of its name is never read; "" if it is.
        is_settled: nobody has written to it for so long that what is wrong with it will stay wrong.
        arrived_s: wall clock (seconds since 1970) of the look that found it.
    """

    path: Path
    identity: Identity
    is_settled: bool
    arrived_s: float
    left_out: str = ""


@dataclass
class _Seen:
    identity: Identity
    since_s: float
    is_broken: bool = False


class Listing:
    """Looks at a folder again and again; of the files that are not ready it knows when they last changed."""

    def __init__(self, folder: Path, settle_s: float) -> None:
        """Watches ``folder``; a file that is not whole is given up on after ``settle_s`` without a change."""
        self._folder = folder
        self._settle_s = settle_s
        self._seen: dict[str, _Seen] = {}

    def look(self, now_s: float, done: Container[Identity]) -> list[Found]:
        """The files that are ready and not ``done``, by name.

        Raises:
            DataError: the folder is gone.
        """
        seen: dict[str, _Seen] = {}
        ready = []
        for name, identity, left_out in self._files():
            if identity in done:
                continue
            one = self._seen.get(name)
            if one is None or one.identity != identity or one.since_s > now_s:
                one = _Seen(identity, now_s)
            seen[name] = one
            if left_out:  # a name that a writer is about to change is not left out
                if now_s - one.since_s >= self._settle_s:
                    ready.append(Found(self._folder / name, identity, True, now_s, left_out))
                continue
            # from the first look on if the file is dated in the future
            quiet_s = now_s - min(identity[2] / 1e9, one.since_s)
            is_settled = quiet_s >= self._settle_s
            path = self._folder / name
            if is_settled or (not one.is_broken and _looks_whole(path, quiet_s)):
                ready.append(Found(path, identity, is_settled, now_s))
        self._seen = seen
        return sorted(ready, key=lambda found: found.path.name)

    def put_off(self, found: Found) -> None:
        """Waits with a file that cannot be read until it changes or has settled."""
        if found.path.name in self._seen:
            self._seen[found.path.name].is_broken = True

    def _files(self) -> list[tuple[str, Identity, str]]:
        files: list[tuple[str, Identity, str]] = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        if why := _why_left_out(entry):
                            files.append((entry.name, (entry.name, 0, 0), why))
                        else:
                            at = entry.stat()
                            files.append((entry.name, (entry.name, at.st_size, at.st_mtime_ns), ""))
                    except OSError:
                        continue  # it has just vanished
        except OSError as error:
            raise DataError(
                f"{self._folder}: the watched folder is gone ({error.strerror}): make it again"
            ) from error
        return files


def _why_left_out(entry: os.DirEntry[str]) -> str | None:
    """Why what is in a watched folder is not read; None if it is."""
    if entry.name[0] in "._":
        return HIDDEN
    if not entry.is_file():
        return "a folder in a watched folder" if entry.is_dir() else "no regular file"
    return formats.why_unknown(Path(entry.name))


def identity_of(path: Path) -> Identity | None:
    """What a file is now; None if it is not there."""
    try:
        at = path.stat()
    except OSError:
        return None
    return path.name, at.st_size, at.st_mtime_ns


def _looks_whole(path: Path, quiet_s: float) -> bool:
    """Whether the end of a file is one: Parquet's own sign, or the end of a line and some quiet."""
    if formats.is_parquet(path):
        return _ends_with(path, _FOOTER)
    packed = path.suffix.lower() == ".gz"  # that it breaks off shows when it is read
    return quiet_s >= _QUIET_S and (packed or _ends_with(path, b"\n"))


def _ends_with(path: Path, sign: bytes) -> bool:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - len(sign), 0))
            return file.read() == sign
    except OSError:
        return False
