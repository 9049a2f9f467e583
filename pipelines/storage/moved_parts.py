"""Replace several parts of an output folder on a disk by renames: all parts or, after an error, none.

When the new parts are synced in the hidden folder, an empty marker file is created there. The marker means
that the new output is complete; only renames follow. If a rename fails, the earlier renames are undone. If
the process dies, the next job on the folder completes the renames. The marker is deleted after the renames
are synced, and before the hidden folder is removed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from forecaster.durable import sync_path, write_bytes
from pipelines.storage import markers

_REMOVE_LIMIT_S: Final = 10.0
_OLD: Final = "old-"


def move_all(hidden: Path, output: Path, parts: Sequence[str]) -> None:
    """Replace the folders ``parts`` in ``output`` with those in ``hidden``, and remove ``hidden``.

    Raises:
        OSError: a part cannot be moved; the output is unchanged.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in (*(hidden / part for part in parts), hidden, output):
            sync_path(folder)
        write_bytes(hidden / markers.COMPLETE, b"")
        for part in parts:
            _move(part, hidden, output, moved)
        _sync_both(hidden, output)
    except BaseException:
        for there, back in reversed(moved):
            if there.exists():
                os.replace(there, back)
        _remove_marker(hidden, output)
        raise
    _remove_marker(hidden, output)
    _remove(hidden)


def _sync_both(hidden: Path, output: Path) -> None:
    sync_path(output)
    sync_path(hidden)


def _remove_marker(hidden: Path, output: Path) -> None:
    """Remove the file that marks a hidden folder as complete; call this before the folder is removed.

    With the marker, the next job would take a partly removed folder for a complete one.
    """
    # If an error leaves the marker in place, a later call of `complete` repeats renames that were undone.
    with suppress(OSError):
        _sync_both(hidden, output)
        (hidden / markers.COMPLETE).unlink(missing_ok=True)
        sync_path(hidden)


def complete(hidden: Path, output: Path) -> None:
    """Remove a hidden folder; if it is marked as complete, first move the parts that a killed job left there.

    Raises:
        OSError: a part cannot be renamed.
    """
    if (hidden / markers.COMPLETE).exists():
        for part in _parts_in(hidden):  # the killed job has already moved the other parts
            _move(part, hidden, output, [])
        _sync_both(hidden, output)
        (hidden / markers.COMPLETE).unlink()
        sync_path(hidden)
    _remove(hidden)


def _parts_in(hidden: Path) -> list[str]:
    """Return the names of the new parts that a complete hidden folder still holds; the others were moved."""
    names = (path.name for path in hidden.iterdir() if path.is_dir())
    # A folder with a name that begins with "old-" is a replaced part. But a user may also give a state table
    # such a name. A folder is a new state table, and not a replaced part, if ``hidden`` has the name that
    # `markers.new_table` makes from the name of the folder.
    is_table = {name: markers.new_table(name) == hidden.name for name in names}
    return sorted(name for name in is_table if is_table[name] or not name.startswith((".", _OLD)))


def _move(part: str, hidden: Path, output: Path, moved: list[tuple[Path, Path]]) -> None:
    old, new, place = hidden / f"{_OLD}{part}", hidden / part, output / part
    # Record each rename before making it, because an interrupt may come between the two steps.
    if place.exists():
        moved.append((old, place))
        os.replace(place, old)
    moved.append((place, new))
    os.replace(new, place)


def _remove(folder: Path) -> None:
    """Remove a folder; retry for 10 seconds, because a worker may still be writing into it."""
    deadline_s = time.monotonic() + _REMOVE_LIMIT_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
