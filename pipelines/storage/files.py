"""Files and folders at any location: written complete or not at all, locked, and replaced together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from pipelines.storage.disk_store import DiskStore
from pipelines.storage.object_store import ObjectStore
from pipelines.storage.output_errors import output_errors
from pipelines.storage.remote import Location
from pipelines.storage.store import Held, Store, Target


def store_of(place: Location) -> Store:
    """Return the store of a location: the only function that distinguishes paths and objects."""
    return DiskStore(place) if isinstance(place, Path) else ObjectStore(place)


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
    return store_of(path).write_whole(write, kept=kept, is_ours=is_ours)


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


def source_of(path: Location) -> Target:
    """Return the file as a path or buffer, which readers of file formats accept.

    Raises:
        OSError: an object cannot be read.
    """
    return store_of(path).source()


def sync(files: Iterable[Location]) -> None:
    """Wait until files, and their names in their folders, are on the disk; objects in a store always are.

    Raises:
        OSError: the disk reports an error, or a file is missing.
    """
    files = list(files)
    for path in (*files, *{path.parent for path in files}):
        store_of(path).sync()


def make_folder(folder: Location) -> None:
    """Create a folder and its parents durably; do nothing in an object store, which has no folders.

    Raises:
        OSError: a folder cannot be created.
    """
    store_of(folder).make_folder()


def check_folder(folder: Location) -> int | None:
    """Check that a folder exists or can be created, and can be written to; create nothing.

    Returns:
        Free bytes on its disk; None for an object store.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    store = store_of(folder)
    store.check_writable()
    return store.free_bytes()


def locked(folder: Location) -> AbstractContextManager[Held]:
    """Create an output folder, and lock it against other jobs while the block runs.

    Jobs in this process are locked out, too. On a disk the kernel holds the lock, and releases it when the
    process ends, however it ends. If this function created the folder and it is empty at the end, the folder
    is removed. In an object store the lock is a lease; see `pipelines.storage.lease`.

    Returns:
        A context manager that yields a check, which raises `OutputError` if the lock was lost, as a lease can
        be.

    Raises:
        OutputError: another job holds the lock, or the folder cannot be written to.
    """
    return store_of(folder).locked()


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Move ``parts`` from ``hidden`` into ``output``, replace existing parts there, and remove ``hidden``.

    Args:
        hidden: folder in ``output`` that contains all of the parts.
        output: output folder.
        parts: names of folders.

    Raises:
        OutputError: a part cannot be moved. The output is unchanged, or in an object store possibly new as a
            whole: see `pipelines.storage.replaced_parts`.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).replace_parts(hidden.name, parts)


def complete_replacement(hidden: Location, output: Location) -> None:
    """Complete a `replace_parts` that was killed; remove a hidden folder that is incomplete.

    Raises:
        OutputError: an object store cannot be reached, or a part cannot be renamed.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).complete_replacement(hidden.name)
