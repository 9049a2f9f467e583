"""Write files on a disk or in an object store that are complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

from forecaster import durable
from pipelines.storage.remote import Location, Remote

Target: TypeAlias = Path | BytesIO
"""The targets that the writers of file formats accept."""


def write_whole(
    path: Location,
    write: Callable[[Target], object],
    *,
    kept: bool = False,
    is_ours: Callable[[], bool] | None = None,
) -> bool:
    """Write a file so that it appears whole, or not at all.

    On a disk `forecaster.durable.write_whole` does it. In an object store the file is put with one request.

    Args:
        path: where; its folder exists.
        write: writes the file to what it is given.
        kept: whether the file survives a loss of power once this function has returned. False for files that
            are synced later, all at once, and for files that no other file depends on. An object store
            always keeps a file.
        is_ours: called when everything is written: whether the folder still belongs to this run.

    Returns:
        Whether the file is in place; False where ``is_ours`` refused.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path):
        return durable.write_whole(path, write, kept=kept, is_ours=is_ours)
    data = BytesIO()
    write(data)
    if is_ours is not None and not is_ours():
        return False
    path.write_bytes(data.getvalue())
    return True


def write_text(
    path: Location, text: str, *, kept: bool = False, is_ours: Callable[[], bool] | None = None
) -> bool:
    """Write a text file so that it appears complete, or not at all; see `write_whole`.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, partial(write_to, data=text.encode()), kept=kept, is_ours=is_ours)


def write_to(target: Target, data: bytes) -> None:
    """Write the whole content of a file to what `write_whole` gives its writers."""
    if isinstance(target, Path):
        target.write_bytes(data)
    else:
        target.write(data)


def remove_temporaries(folder: Location) -> None:
    """Remove what `forecaster.durable.remove_temporaries` removes; an object store has no such files."""
    if isinstance(folder, Path):
        durable.remove_temporaries(folder)


def source_of(path: Location) -> Path | BytesIO:
    """What the readers of file formats take.

    Raises:
        OSError: an object cannot be read.
    """
    return BytesIO(path.read_bytes()) if isinstance(path, Remote) else path


def written_ns(path: Location) -> int:
    """When a file was written, in nanoseconds since 1970; in a store, as its listing says."""
    return path.written_ns if isinstance(path, Remote) else path.stat().st_mtime_ns


def make_folder(folder: Location) -> None:
    """Make a folder and those that it lies in, which survive a loss of power; an object store has none.

    Raises:
        OSError: one cannot be made.
    """
    if isinstance(folder, Path):
        durable.make_folder(folder)


def remove_tree(folder: Location) -> None:
    """Removes a folder and what is in it, as far as that can be done."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError):
        folder.remove_below()


def sync(files: Iterable[Location]) -> None:
    """Has the disk keep files, and the folders that name them; what is in an object store is kept.

    Raises:
        OSError: the disk says that it cannot, or one is not there.
    """
    kept = [path for path in files if isinstance(path, Path)]
    for path in (*kept, *{path.parent for path in kept}):
        durable.sync_path(path)
