"""Put what a job made in a hidden folder in the place of what an earlier job left: all of it, or none.

The hidden folder gets a mark once everything in it is on the disk. That the mark is there says all: what it
holds is of no matter. From then on only renames follow, each of which is undone if a later one fails; where
the process dies among them, the next job on the folder completes them. The mark goes first when the hidden
folder is removed, and only after the renames are on the disk. In an object store, which renames nothing,
the mark is one PUT of a manifest; see `pipelines.storage.replaced_parts`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from forecaster.durable import sync_path
from pipelines.storage import Location, Remote, complete_replacement_in_store, replace_in_store, write_text
from schemas.errors import OutputError

_COMPLETE = "complete"
_REMOVE_LIMIT_S = 10.0
_OLD = "old-"


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Moves ``parts``, all of which ``hidden`` has, into ``output``; removes what was there, and ``hidden``.

    Raises:
        OutputError: a part cannot be moved; everything is as it was; or in an object store, all
            is new: see `pipelines.storage.replaced_parts`.
    """
    if isinstance(hidden, Remote) and isinstance(output, Remote):
        with _told(output):
            replace_in_store(hidden, output, parts)
    elif isinstance(hidden, Path) and isinstance(output, Path):
        _move_all(hidden, output, parts)


def _move_all(hidden: Path, output: Path, parts: Sequence[str]) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in (*(hidden / part for part in parts), hidden, output):
            sync_path(folder)
        write_text(hidden / _COMPLETE, "", kept=True)
        for part in parts:
            _move(part, hidden, output, moved)
        _sync_both(hidden, output)
    except BaseException as error:
        for there, back in reversed(moved):
            if there.exists():
                os.replace(there, back)
        _take_mark_away(hidden, output)
        if isinstance(error, OSError):
            raise OutputError(f"{output}: cannot be put in place ({error.strerror})") from error
        raise
    _take_mark_away(hidden, output)
    remove(hidden)


def _sync_both(hidden: Path, output: Path) -> None:
    sync_path(output)
    sync_path(hidden)


def _take_mark_away(hidden: Path, output: Path) -> None:
    """From here on the hidden folder is removed; half removed it must never be taken for a complete one."""
    with suppress(OSError):  # a disk that fails here keeps the mark, and the next job completes the renames
        _sync_both(hidden, output)
        (hidden / _COMPLETE).unlink(missing_ok=True)
        sync_path(hidden)


def complete_replacement(hidden: Location, output: Location) -> None:
    """Ends what a job that was killed among its renames had begun; what was not complete is removed.

    Raises:
        OutputError: an object store cannot be reached, or a part cannot be renamed.
    """
    if isinstance(hidden, Remote) and isinstance(output, Remote):
        with _told(output):
            complete_replacement_in_store(hidden, output)
    elif isinstance(hidden, Path) and isinstance(output, Path):
        _end_moving(hidden, output)


def _end_moving(hidden: Path, output: Path) -> None:
    try:
        if (hidden / _COMPLETE).exists():
            for part in _parts_in(hidden):  # those that are not here were moved before
                _move(part, hidden, output, [])
            _sync_both(hidden, output)
            (hidden / _COMPLETE).unlink()
            sync_path(hidden)
    except OSError as error:
        raise OutputError(f"{output}: cannot be put in place ({error.strerror})") from error
    remove(hidden)


def _parts_in(hidden: Path) -> list[str]:
    """Return the new parts in a complete hidden folder: all of its folders but hidden and old ones."""
    names = (path.name for path in hidden.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith((".", _OLD)))


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
