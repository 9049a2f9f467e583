"""Write local files so that they are complete or absent and, by default, survive a loss of power.

`forecaster` uses this module for models, reports and the MLflow store, and `pipelines` for the files of jobs.
The module imports the standard library only, so that commands without a network load quickly.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

_TEMPORARY: Final = ".tmp"  # an unfinished file has a hidden name with this suffix, until it is renamed


def write_whole(
    path: Path,
    write: Callable[[Path], object],
    *,
    kept: bool = True,
    is_ours: Callable[[], bool] | None = None,
) -> bool:
    """Write a file so that it appears complete, or not at all.

    The file is written under a unique hidden name and synced. After ``is_ours`` has returned True, it is
    renamed, and its folder is synced. The new file gets the permissions of the file that it replaces. If
    ``path`` is a symbolic link, the file that it points to is replaced. A device or a pipe is written
    directly.

    Args:
        path: path of the file; its folder exists.
        write: writes the content to the path that it is given, where an empty file already exists.
        kept: whether the file survives a loss of power once this function has returned. Use False for files
            that are synced together later, and for files that no other file depends on.
        is_ours: called after the content is written; returns whether the file may still be put in place.

    Returns:
        Whether the file is in place; False if ``is_ours`` returned False.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    mode = None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    if mode is not None:
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            write(path)
            return True
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
    hidden = path.with_name(f".{uuid4().hex}{_TEMPORARY}")
    try:
        # Create the file here, because the errors of libraries would name the hidden file.
        os.close(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600))
        if mode is not None:
            hidden.chmod(stat.S_IMODE(mode))
        write(hidden)
        if kept:
            sync_path(hidden)
        if is_ours is not None and not is_ours():
            return False
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    if kept:
        sync_path(path.parent)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to a file as a whole or not at all (`write_whole`), and create missing folders.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    make_folder(path.parent)
    write_whole(path, lambda hidden: hidden.write_bytes(data))


def move_whole(made: Path, path: Path) -> None:
    """Move a finished file or folder to its final name; on return it survives a loss of power.

    Args:
        made: the file or folder, under a name that no reader uses, on the same disk.
        path: its final name. An existing file is replaced; an existing folder must be empty.

    Raises:
        OSError: it cannot be moved.
    """
    sync_tree(made)
    os.replace(made, path)
    sync_path(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, so that they survive a loss of power.

    Raises:
        OSError: a folder cannot be created.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)


def remove_temporaries(folder: Path) -> None:
    """Remove the incomplete files that killed processes have left in a folder.

    A writer that is still alive, in a run that has lost the folder, then fails when it renames its file.
    """
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all files and folders below it, is on the disk.

    Raises:
        OSError: the disk reports an error, or ``path`` does not exist.
    """
    for below in sorted(path.rglob("*"), reverse=True):  # sync the files in a folder before the folder itself
        if not below.is_symlink():
            sync_path(below)
    sync_path(path)


def sync_path(path: Path) -> None:
    """Wait until the content of a file, or the list of names in a folder, is on the disk.

    Raises:
        OSError: the disk reports an error, or ``path`` does not exist.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
