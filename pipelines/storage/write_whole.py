"""Write files that are complete or absent, and that survive a loss of power on request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

from pipelines.storage.remote import Location, Remote

Target: TypeAlias = Path | BytesIO
"""The targets that the writers of file formats accept."""

_TEMPORARY: Final = ".tmp"  # ends the hidden name of a file that is being written


def write_whole(
    path: Location,
    write: Callable[[Target], object],
    *,
    kept: bool = False,
    is_ours: Callable[[], bool] | None = None,
) -> bool:
    """Write a file so that it appears whole, or not at all.

    On a disk it is written under a hidden name that no other writer uses, synced, and renamed once
    ``is_ours`` has agreed; then its folder is synced. In an object store it is put with one request.

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
    if isinstance(path, Remote):
        data = BytesIO()
        write(data)
        if is_ours is not None and not is_ours():
            return False
        path.write_bytes(data.getvalue())
        return True
    hidden = path.with_name(f".{uuid4().hex}{_TEMPORARY}")
    try:
        write(hidden)
        if kept:
            sync_folder(hidden)
        if is_ours is not None and not is_ours():
            return False
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    if kept:
        sync_folder(path.parent)
    return True


def write_text(
    path: Location, text: str, *, kept: bool = False, is_ours: Callable[[], bool] | None = None
) -> bool:
    """Write a text file so that it appears complete, or not at all; see `write_whole`.

    Raises:
        OSError: it cannot be written.
    """

    def write(target: Target) -> None:
        if isinstance(target, Path):
            target.write_bytes(text.encode())
        else:
            target.write(text.encode())

    return write_whole(path, write, kept=kept, is_ours=is_ours)


def remove_temporaries(folder: Location) -> None:
    """Remove the files that writers which died have left half written in a folder.

    A writer that lives on, of a run that has lost the folder, then fails when it renames its file.
    """
    if isinstance(folder, Path):
        for path in folder.glob(f".*{_TEMPORARY}"):
            path.unlink(missing_ok=True)


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
    if isinstance(folder, Path) and not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


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
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Has the disk keep the names in a folder, or the content of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
