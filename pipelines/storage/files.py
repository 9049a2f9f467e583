"""Write, sync and replace files and folders on a disk or in an object store, with the methods of `Store`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from pipelines.storage.disk_store import DiskStore
from pipelines.storage.object_store import ObjectStore
from pipelines.storage.output_errors import output_errors
from pipelines.storage.remote import Location
from pipelines.storage.store import Store, Target


def store_of(place: Location) -> Store:
    """Return the `Store` of a location: a `DiskStore` for a path, or else an `ObjectStore`."""
    return DiskStore(place) if isinstance(place, Path) else ObjectStore(place)


def write_whole(
    path: Location,
    write: Callable[[Target], object],
    *,
    kept: bool = False,
    is_ours: Callable[[], bool] | None = None,
) -> bool:
    """Write a file as a whole or not at all; write nothing and return False if ``is_ours`` returns False."""
    return store_of(path).write_whole(write, kept=kept, is_ours=is_ours) is not None


def write_text(
    path: Location, text: str, *, kept: bool = False, is_ours: Callable[[], bool] | None = None
) -> bool:
    """Write a text file as a whole or not at all; see `write_whole`."""
    return write_whole(path, partial(write_to, data=text.encode()), kept=kept, is_ours=is_ours)


def write_to(target: Target, data: bytes) -> None:
    """Write ``data`` to a path or an open file; used as a callback with ``data`` bound."""
    if isinstance(target, Path):
        target.write_bytes(data)
    else:
        target.write(data)


def sync(files: Iterable[Location]) -> None:
    """Sync files and their folders to the disk, so that the files survive a loss of power."""
    files = list(files)
    for path in (*files, *{path.parent for path in files}):
        store_of(path).sync()


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Move ``parts`` from a hidden folder in ``output`` to ``output``, and remove the hidden folder.

    Raises:
        OutputError: a part cannot be moved. The output is unchanged; in an object store, it may be new as a
            whole: see `pipelines.storage.replaced_parts`.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).replace_parts(hidden.name, parts)


def complete_replacement(hidden: Location, output: Location) -> None:
    """Remove ``hidden``; first complete a killed `replace_parts` if it had marked its parts complete.

    Raises:
        OutputError: an object store cannot be reached, or a part cannot be renamed.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).complete_replacement(hidden.name)
