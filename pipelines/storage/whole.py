"""Files that are there whole or not at all, and that are kept where something builds on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

from pipelines.storage.remote import Location, Remote

Target: TypeAlias = Path | BytesIO
"""What the writers of file formats take."""


def write_whole(path: Location, write: Callable[[Target], object], *, kept: bool = False) -> None:
    """A file that appears whole: on a disk written under a hidden name, then renamed; else put at once.

    Args:
        path: where; its folder is there.
        write: writes it to what it is given.
        kept: on return the disk keeps it, and the folder that names it; an object store always does.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Remote):
        data = BytesIO()
        write(data)
        path.write_bytes(data.getvalue())
    else:
        _write_and_rename(path, write, kept)


def _write_and_rename(path: Path, write: Callable[[Path], object], kept: bool) -> None:
    hidden = path.with_name(f".{path.name}")
    write(hidden)
    if kept:
        sync_folder(hidden)
    os.replace(hidden, path)
    if kept:
        sync_folder(path.parent)


def write_text(path: Location, text: str, *, kept: bool = False) -> None:
    """A file of text that appears whole; see `write_whole`.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Remote):
        path.write_bytes(text.encode())
    else:
        _write_and_rename(path, lambda hidden: hidden.write_text(text), kept)


def add_line(path: Location, line: str) -> None:
    """Adds a line to a file that one process alone adds to; on return the disk keeps it.

    A crash may leave it half, without its end; never in an object store, where all lines are put anew.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Remote):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + line.encode() + b"\n")
        return
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


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
    """Makes a folder, and those that it lies in; an object store has none."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


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
