"""Short forms of the operations of `Store` that most callers need; `Store` documents them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO

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
    """Write a file so that it appears complete, or not at all; return whether it is in place."""
    return store_of(path).write_whole(write, kept=kept, is_ours=is_ours) is not None


def write_text(
    path: Location, text: str, *, kept: bool = False, is_ours: Callable[[], bool] | None = None
) -> bool:
    """Write a text file as `write_whole` does."""
    return write_whole(path, partial(write_to, data=text.encode()), kept=kept, is_ours=is_ours)


def write_to(target: Target, data: bytes) -> None:
    """Write ``data`` to ``target``; a `partial` with ``data`` is a ``write`` argument of `write_whole`."""
    if isinstance(target, Path):
        target.write_bytes(data)
    else:
        target.write(data)


def source_of(path: Location) -> Target:
    """Return a file as a path or buffer, which readers of file formats accept."""
    return store_of(path).source()


def open_parts(path: Location) -> AbstractContextManager[IO[bytes]]:
    """Open a file to read parts of it; of an object, only these parts are requested."""
    return store_of(path).open_parts()


def sync(files: Iterable[Location]) -> None:
    """Wait until files, and their names in their folders, survive a loss of power."""
    files = list(files)
    for path in (*files, *{path.parent for path in files}):
        store_of(path).sync()


def make_folder(folder: Location) -> None:
    """Create a folder and its parents durably, if the store has folders."""
    store_of(folder).make_folder()


def check_folder(folder: Location) -> int | None:
    """Check that a folder can be written to, and return the free bytes on its disk; create nothing."""
    return store_of(folder).check_writable()


def locked(folder: Location) -> AbstractContextManager[Held]:
    """Create an output folder, and lock it against other jobs in a ``with`` block."""
    return store_of(folder).locked()


def replace_parts(hidden: Location, output: Location, parts: Sequence[str]) -> None:
    """Move ``parts`` from a hidden folder in ``output`` to ``output``, and remove the hidden folder.

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
