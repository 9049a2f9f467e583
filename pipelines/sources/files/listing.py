"""Find the complete files of a watched folder; other files do not wait for an incomplete file."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.files.file_identity import Identity
from pipelines.sources.files.file_kinds import is_parquet, is_plain_text, why_unknown
from pipelines.sources.files.find_files import HIDDEN
from schemas.errors import DataError

# A file that is not Parquet counts as complete if it has not changed for this long; a text file must also
# end with a line break.
_QUIET_S = 1.0
_FOOTER = b"PAR1"


@dataclass(frozen=True)
class ReadyFile:
    """A file of a watched folder that is ready to be read, or an entry of it that is never read.

    Attributes:
        path: the file.
        identity: its identity when it was found.
        is_settled: whether it has not changed for ``settle_s``, so that an error in it counts as permanent.
        arrived_s: wall clock (seconds since 1970) of the listing that found it.
        left_out: the reason why the entry is never read; "" if it is a file to read.
    """

    path: Path
    identity: Identity
    is_settled: bool
    arrived_s: float
    left_out: str = ""


@dataclass
class _Seen:
    """A file that may not be ready: when its current version was first listed, and whether a read failed."""

    identity: Identity
    since_s: float
    is_broken: bool = False


class Listing:
    """Lists a watched folder repeatedly, and finds the files that are ready to be read."""

    def __init__(self, folder: Path, settle_s: float) -> None:
        """Watch ``folder``; an incomplete file counts as ready after ``settle_s`` without a change."""
        self._folder = folder
        self._settle_s = settle_s
        self._seen: dict[str, _Seen] = {}

    def look(self, now_s: float, done: Container[Identity]) -> list[ReadyFile]:
        """Return the files to read and the left-out entries to report, sorted by name.

        A file or an entry with its identity in ``done`` is skipped.

        Raises:
            DataError: the folder does not exist.
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
            # ``left_out`` is the reason why the entry is not read; "" if it is read.
            # Report a left-out entry only ``settle_s`` after its first listing, because a writer may rename
            # the entry before that.
            if left_out:
                if now_s - one.since_s >= self._settle_s:
                    ready.append(ReadyFile(self._folder / name, identity, True, now_s, left_out))
                continue
            # The quiet time begins with the modification time, or with the first listing of this version if
            # that was earlier, because the modification time may be in the future.
            quiet_s = now_s - min(identity[2] / 1e9, one.since_s)
            is_settled = quiet_s >= self._settle_s
            path = self._folder / name
            if is_settled or (not one.is_broken and _looks_complete(path, quiet_s)):
                ready.append(ReadyFile(path, identity, is_settled, now_s))
        self._seen = seen
        return sorted(ready, key=lambda found: found.path.name)

    def postpone(self, found: ReadyFile) -> None:
        """Mark a file as unreadable, so that `look` does not return it again at once.

        `look` returns it again if it changes, or if it has not changed for ``settle_s``.
        """
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
                    except PermissionError:
                        raise  # The folder lacks the permission to search it, so no file can be read.
                    except OSError:
                        continue  # Usually the file was removed during the listing.
        except OSError as error:
            raise DataError(
                f"{self._folder}: the watched folder cannot be listed ({error.strerror}): create it again "
                "or correct its permissions"
            ) from error
        return files


def _why_left_out(entry: os.DirEntry[str]) -> str | None:
    """Return why an entry of a watched folder is not read; None if it is read."""
    if entry.name[0] in "._":
        return HIDDEN
    if not entry.is_file():
        return "a folder in a watched folder" if entry.is_dir() else "not a regular file"
    return why_unknown(Path(entry.name))


def _looks_complete(path: Path, quiet_s: float) -> bool:
    """Return whether a file is probably complete, judged by its end and by the time since its last change.

    A complete Parquet file ends with a footer. A complete text file ends with a line break, and has not
    changed for `_QUIET_S`. A complete file of another kind has not changed for `_QUIET_S`.
    """
    if is_parquet(path):
        return _ends_with(path, _FOOTER)
    # The end of another kind of file, such as .csv.gz, is not checked: reading it raises an error if the file
    # is incomplete.
    if not is_plain_text(path):
        return quiet_s >= _QUIET_S
    return quiet_s >= _QUIET_S and _ends_with(path, b"\n")


def _ends_with(path: Path, ending: bytes) -> bool:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - len(ending), 0))
            return file.read() == ending
    except OSError:
        return False
