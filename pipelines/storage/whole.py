"""Files that are there whole or not at all, and that the disk keeps where something builds on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object], *, kept: bool = False) -> None:
    """A file that appears whole: written under a hidden name, then renamed.

    Args:
        path: where; its folder is there.
        write: writes it, at the path that it is given.
        kept: on return the disk keeps it, and the folder that names it.

    Raises:
        OSError: it cannot be written.
    """
    hidden = path.with_name(f".{path.name}")
    write(hidden)
    if kept:
        sync_folder(hidden)
    os.replace(hidden, path)
    if kept:
        sync_folder(path.parent)


def write_text(path: Path, text: str, *, kept: bool = False) -> None:
    """A file of text that appears whole; see `write_whole`."""
    write_whole(path, lambda hidden: hidden.write_text(text), kept=kept)


def add_line(path: Path, line: str) -> None:
    """Adds a line to a file; on return the disk keeps it. A crash may leave it half, without its end.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sync(files: Iterable[Path]) -> None:
    """Has the disk keep files, and the folders that name them."""
    kept = list(files)
    for path in (*kept, *{path.parent for path in kept}):
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Has the disk keep the names in a folder, or the content of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
