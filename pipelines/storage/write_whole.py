"""Write files on a disk or in an object store so that they are complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

from forecaster import durable
from pipelines.storage.remote import Location, Remote

Target: TypeAlias = Path | BytesIO
"""A path or a buffer; writers of file formats accept both."""


def write_whole(
    path: Location,
    write: Callable[[Target], object],
    *,
    kept: bool = False,
    is_ours: Callable[[], bool] | None = None,
) -> bool:
    """Write a file so that it appears complete, or not at all.

    On a disk `forecaster.durable.write_whole` writes it. In an object store the file is put with one request.

    Args:
        path: path of the file; its folder exists.
        write: writes the content to the path or buffer that it is given.
        kept: whether the file survives a loss of power once this function has returned. Use False for files
            that are synced together later, and for files that no other file depends on. Objects in a store
            are always durable.
        is_ours: called after the content is written; returns whether the folder still belongs to this run.

    Returns:
        Whether the file is in place; False if ``is_ours`` returned False.

    Raises:
        OSError: the file cannot be written.
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
        OSError: the file cannot be written.
    """
    return write_whole(path, partial(write_to, data=text.encode()), kept=kept, is_ours=is_ours)


def write_to(target: Target, data: bytes) -> None:
    """Write ``data`` to ``target``.

    With ``data`` bound, this is the ``write`` function that `write_whole` needs for a file whose content is
    already in memory.
    """
    if isinstance(target, Path):
        target.write_bytes(data)
    else:
        target.write(data)


def remove_temporaries(folder: Location) -> None:
    """Remove incomplete files, as `forecaster.durable.remove_temporaries` does; an object store has none."""
    if isinstance(folder, Path):
        durable.remove_temporaries(folder)


def source_of(path: Location) -> Path | BytesIO:
    """Return the file as a path or buffer, which readers of file formats accept.

    Raises:
        OSError: an object cannot be read.
    """
    return BytesIO(path.read_bytes()) if isinstance(path, Remote) else path


def open_parts(path: Location) -> AbstractContextManager[IO[bytes]]:
    """Open a file to read parts of it; of an object, only these parts are requested.

    Raises:
        OSError: the file cannot be opened.
    """
    return path.open_parts() if isinstance(path, Remote) else path.open("rb")


def written_ns(path: Location) -> int:
    """Return when a file was written, in nanoseconds since 1970; for an object, the time in its listing."""
    return path.written_ns if isinstance(path, Remote) else path.stat().st_mtime_ns


def make_folder(folder: Location) -> None:
    """Create a folder and its parents durably; do nothing in an object store, which has no folders.

    Raises:
        OSError: a folder cannot be created.
    """
    if isinstance(folder, Path):
        durable.make_folder(folder)


def remove_tree(folder: Location) -> None:
    """Remove a folder and its content as far as possible; errors are ignored."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError):
        folder.remove_below()


def sync(files: Iterable[Location]) -> None:
    """Wait until files, and their names in their folders, are on the disk; objects in a store always are.

    Raises:
        OSError: the disk reports an error, or a file is missing.
    """
    kept = [path for path in files if isinstance(path, Path)]
    for path in (*kept, *{path.parent for path in kept}):
        durable.sync_path(path)
