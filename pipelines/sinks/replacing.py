"""What a job leaves in a hidden folder put in the place of what an earlier one left: all of it, or none.

The hidden folder gets a mark when it is complete. From then on it is only a matter of renames, each of which
is undone if a later one fails; where the process dies among them, the next job on the folder ends them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import OutputError

_COMPLETE = "complete"
_REMOVE_LIMIT_S = 10.0
_OLD = "old-"


def replace_parts(hidden: Path, output: Path, parts: Sequence[str]) -> None:
    """Moves ``parts``, all of which ``hidden`` has, into ``output``; removes what was there, and ``hidden``.

    Raises:
        OutputError: a part cannot be moved; everything is as it was.
    """
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


def end_replacing(hidden: Path, output: Path) -> None:
    """Ends what a job that was killed among its renames had begun; what was not complete is removed."""
    mark = hidden / _COMPLETE
    if mark.exists():
        for part in mark.read_text().split():
            if (hidden / part).exists():  # else it was moved before
                _move(part, hidden, output, [])
    remove(hidden)


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
