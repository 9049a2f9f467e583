"""What a job leaves in a hidden folder put in the place of what an earlier one left: all of it, or none.

The hidden folder gets a mark when it is complete. From then on it is only a matter of renames, each of which
is undone if a later one fails; where the process dies among them, the next job on the folder ends them. In an
object store, which renames nothing, it is one PUT of a manifest; see `pipelines.storage.parts`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.storage import Location, Remote, end_putting, put_in_place
from schemas.errors import OutputError

_COMPLETE = "complete"
_REMOVE_LIMIT_S = 10.0
_OLD = "old-"


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Moves ``parts``, all of which ``hidden`` has, into ``output``; removes what was there, and ``hidden``.

    Raises:
        OutputError: a part cannot be moved; everything is as it was; or in an object store, all
            is new: see `pipelines.storage.parts`.
    """
    if isinstance(hidden, Remote) and isinstance(output, Remote):
        with _told(output):
            put_in_place(hidden, output, parts)
    elif isinstance(hidden, Path) and isinstance(output, Path):
        _move_all(hidden, output, parts)


def _move_all(hidden: Path, output: Path, parts: Sequence[str]) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        (hidden / _COMPLETE).write_text("\n".join(parts) + "\n")
        for part in parts:
            _move(part, hidden, output, moved)
    except BaseException as error:
        for there, back in reversed(moved):
            if there.exists():
                os.replace(there, back)
        (hidden / _COMPLETE).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{output}: cannot be put in place ({error.strerror})") from error
        raise
    remove(hidden)


def end_replacing(hidden: Location, output: Location) -> None:
    """Ends what a job that was killed among its renames had begun; what was not complete is removed.

    Raises:
        OutputError: an object store cannot be reached.
    """
    if isinstance(hidden, Remote) and isinstance(output, Remote):
        with _told(output):
            end_putting(hidden, output)
    elif isinstance(hidden, Path) and isinstance(output, Path):
        _end_moving(hidden, output)


def _end_moving(hidden: Path, output: Path) -> None:
    mark = hidden / _COMPLETE
    if mark.exists():
        for part in mark.read_text().split():
            if (hidden / part).exists():  # else it was moved before
                _move(part, hidden, output, [])
    remove(hidden)


@contextmanager
def _told(output: Remote) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output}: cannot be put in place ({error.strerror})") from error


def _move(part: str, hidden: Path, output: Path, moved: list[tuple[Path, Path]]) -> None:
    old, new, place = hidden / f"{_OLD}{part}", hidden / part, output / part
    # Noted before it is done: an interrupt may come between the two.
    if place.exists():
        moved.append((old, place))
        os.replace(place, old)
    moved.append((place, new))
    os.replace(new, place)


def remove(folder: Path) -> None:
    """Removes a folder, one that is just being written to as well: whoever writes ends soon."""
    deadline_s = time.monotonic() + _REMOVE_LIMIT_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
