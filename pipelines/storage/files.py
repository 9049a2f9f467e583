"""Functions for files and folders on a disk or in an object store; `Store` documents these operations."""

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
    """Write a file, which appears complete or not at all; return False if ``is_ours`` returned False."""
    return store_of(path).write_whole(write, kept=kept, is_ours=is_ours) is not None


def write_text(
    path: Location, text: str, *, kept: bool = False, is_ours: Callable[[], bool] | None = None
) -> bool:
    """Write a text file, which appears complete or not at all; see `write_whole`."""
    return write_whole(path, partial(write_to, data=text.encode()), kept=kept, is_ours=is_ours)


def write_to(target: Target, data: bytes) -> None:
    """Write ``data`` to a path or an open file; with `partial`, `write_whole` can call this function."""
    if isinstance(target, Path):
        target.write_bytes(data)
    else:
        target.write(data)


def sync(files: Iterable[Location]) -> None:
    """Wait until files, and their names in their folders, survive a loss of power."""
    files = list(files)
    for path in (*files, *{path.parent for path in files}):
        store_of(path).sync()


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Move ``parts`` from a hidden folder in ``output`` to ``output``, and remove the hidden folder.

    Raises:
        OutputError: a part cannot be moved. The output is unchanged, or in an object store possibly new as a
            whole: see `pipelines.storage.replaced_parts`.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).replace_parts(hidden.name, parts)


def complete_replacement(hidden: Location, output: Location) -> None:
    """Complete a `replace_parts` whose process was killed, or remove its hidden folder if it is incomplete.

    Raises:
        OutputError: an object store cannot be reached, or a part cannot be renamed.
    """
    with output_errors(f"{output}: cannot be put in place"):
        store_of(output).complete_replacement(hidden.name)
