"""Replace the output of an earlier job by the new output in a hidden folder: all of it, or nothing.

When everything in the hidden folder is on the disk, a marker file is created in it. The marker alone means
that the new output is complete; the file's content is ignored. From then on there are only renames. If a
rename fails, the earlier ones are undone; if the process dies, the next job on the folder completes them. The
marker is deleted when the renames are on the disk, before the hidden folder is removed.

An object store cannot rename. There the marker is a manifest put in one request; see
`pipelines.storage.replaced_parts`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from forecaster.durable import sync_path
from pipelines.storage import (
    Location,
    Remote,
    complete_replacement_in_store,
    markers,
    output_errors,
    replace_in_store,
    write_text,
)

_REMOVE_LIMIT_S = 10.0
_OLD = "old-"


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Move ``parts`` from ``hidden`` into ``output``, replace existing parts there, and remove ``hidden``.

    Args:
        hidden: folder that contains all of the parts.
        output: output folder.
        parts: names of folders.

    Raises:
        OutputError: a part cannot be moved. The output is unchanged, or in an object store possibly new as a
            whole: see `pipelines.storage.replaced_parts`.
    """
    with output_errors(f"{output}: cannot be put in place"):
        if isinstance(hidden, Remote) and isinstance(output, Remote):
            replace_in_store(hidden, output, parts)
        elif isinstance(hidden, Path) and isinstance(output, Path):
            _move_all(hidden, output, parts)


def _move_all(hidden: Path, output: Path, parts: Sequence[str]) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in (*(hidden / part for part in parts), hidden, output):
            sync_path(folder)
        write_text(hidden / markers.COMPLETE, "", kept=True)
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
    remove(hidden)


def _sync_both(hidden: Path, output: Path) -> None:
    sync_path(output)
    sync_path(hidden)


def _remove_marker(hidden: Path, output: Path) -> None:
    """Remove the marker of a hidden folder, before the folder is removed.

    Otherwise the next job would take a partly removed folder for a complete one.
    """
    with suppress(OSError):  # if this fails, the marker stays, and the next job completes the renames
        _sync_both(hidden, output)
        (hidden / markers.COMPLETE).unlink(missing_ok=True)
        sync_path(hidden)


def complete_replacement(hidden: Location, output: Location) -> None:
    """Complete the renames of a job that was killed during them; remove a hidden folder that is incomplete.

    Raises:
        OutputError: an object store cannot be reached, or a part cannot be renamed.
    """
    with output_errors(f"{output}: cannot be put in place"):
        if isinstance(hidden, Remote) and isinstance(output, Remote):
            complete_replacement_in_store(hidden, output)
        elif isinstance(hidden, Path) and isinstance(output, Path):
            _end_moving(hidden, output)


def _end_moving(hidden: Path, output: Path) -> None:
    if (hidden / markers.COMPLETE).exists():
        for part in _parts_in(hidden):  # the other parts were moved before
            _move(part, hidden, output, [])
        _sync_both(hidden, output)
        (hidden / markers.COMPLETE).unlink()
        sync_path(hidden)
    remove(hidden)


def _parts_in(hidden: Path) -> list[str]:
    """Return the new parts in a complete hidden folder: its folders that are neither hidden nor old parts."""
    names = (path.name for path in hidden.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith((".", _OLD)))


def _move(part: str, hidden: Path, output: Path, moved: list[tuple[Path, Path]]) -> None:
    old, new, place = hidden / f"{_OLD}{part}", hidden / part, output / part
    # Record each rename before it is made, because an interrupt may come between the two.
    if place.exists():
        moved.append((old, place))
        os.replace(place, old)
    moved.append((place, new))
    os.replace(new, place)


def remove(folder: Path) -> None:
    """Remove a folder; retry for 10 seconds, because a worker may still be writing into it."""
    deadline_s = time.monotonic() + _REMOVE_LIMIT_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
