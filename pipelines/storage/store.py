"""Define the operations on files and folders that differ between a disk and an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO, UnsupportedOperation
from pathlib import Path
from typing import IO, ClassVar, Protocol, TypeAlias, TypeVar

from pipelines.storage.remote import Location

Target: TypeAlias = Path | BytesIO
"""A path or a buffer; writers of file formats accept both."""

T = TypeVar("T")


def _never_lost() -> None:
    """Check a lock on a disk: do nothing, because such a lock cannot be lost."""


@dataclass(frozen=True)
class Held:
    """Checks whether a job still holds the lock of its output folder.

    Attributes:
        check: raises `OutputError` if the job has already noticed that another job took the lock; sends no
            request.
        confirm: reads the locks in the store, and raises `OutputError` if another job has taken the lock.
    """

    check: Callable[[], None] = _never_lost
    confirm: Callable[[], None] = _never_lost

    def __call__(self) -> None:
        """Raise `OutputError` if an earlier request found that another job took the lock; see ``check``."""
        self.check()


class Store(Protocol):
    """One file or folder, on a disk (`DiskStore`) or in an object store (`ObjectStore`).

    `pipelines.storage.store_of` returns the store of a location. The location itself has the operations that
    are the same for both: ``/``, ``name``, ``exists``, ``glob``, ``read_bytes``, ``unlink``. A method raises
    `OSError` if the disk or the store refuses it, except where its docstring names another error.

    Attributes:
        bills_requests: whether each request costs money; if so, callers send few requests.
        can_append: whether `append` and `remove_incomplete_line` can be called.
        on_disk: the path on a disk, for code that cannot work without one, such as an engine's log; None in
            an object store.
    """

    bills_requests: ClassVar[bool]
    can_append: ClassVar[bool]
    on_disk: Path | None

    def write_whole(
        self,
        write: Callable[[Target], object],
        *,
        kept: bool = False,
        is_ours: Callable[[], bool] | None = None,
        seen: str | None = None,
    ) -> str | None:
        """Write the file as a whole or not at all; return its new version.

        Args:
            write: writes the content to the path or buffer that it is given.
            kept: whether the file survives a loss of power once this method has returned. Use False for files
                that are synced together later, and for files that no other file depends on. Objects in a
                store are always durable.
            is_ours: called after the content is written; returns whether the run still owns the folder.
            seen: the version to replace; None for any version. If the file has another version, ``is_ours``
                is called again, and the file is replaced at that version.

        Returns:
            The new version, "" if it is unknown; None if ``is_ours`` returned False.
        """

    def version(self) -> str:
        """Return the version of the file, for `write_whole`; "" if there is no file or no version."""

    def append(self, data: bytes) -> None:
        """Append to the file (create it if needed), and sync it; after an error, the file is unchanged."""
        raise UnsupportedOperation

    def remove_incomplete_line(self) -> None:
        """Remove the incomplete last line that a crash during `append` may leave."""
        raise UnsupportedOperation

    def source(self) -> Target:
        """Return the path of a file on a disk, or a buffer with the content of an object."""

    def open_parts(self) -> AbstractContextManager[IO[bytes]]:
        """Open the file to read parts of it; from an object store, only these parts are requested."""

    def written_ns(self) -> int:
        """Return when the file was written, in nanoseconds since 1970.

        Object stores list times in whole seconds.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the store cannot be reached.
        """

    def sync(self) -> None:
        """Wait until the content of the file, or the names in the folder, survive a loss of power."""

    def make_folder(self) -> None:
        """Create the folder and its parents, and sync them; do nothing in an object store."""

    def remove_tree(self) -> None:
        """Remove the folder and its content; ignore files that cannot be removed."""

    def check_writable(self) -> int | None:
        """Check that the folder can be written to or created; do not create it.

        Returns:
            Free bytes on its disk; None for an object store.

        Raises:
            OutputError: the folder cannot be created or written to.
        """

    def prepare(self, parts: Iterable[str] = ()) -> None:
        """On a disk, create an output folder with subfolders ``parts``, and remove incomplete files from all.

        Raises:
            OutputError: the folder cannot be written to.
        """

    def locked(self) -> AbstractContextManager[Held]:
        """Create an output folder, and lock it against other jobs (also of this process) in a ``with`` block.

        Raises:
            OutputError: on entry, if another job holds the lock, or the folder cannot be written to.
        """

    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Location:
        """Copy the folder, but not its hidden files, to a new folder ``name`` beside it; return the copy.

        ``never_change`` returns, for the name of a file, whether the file never changes; such a file may be
        linked instead of copied.
        """

    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        """Replace ``parts`` of this folder by the parts in its subfolder ``hidden``: all of them or none."""

    def complete_replacement(self, hidden: str) -> None:
        """Complete a `replace_parts` that was killed; if the new parts are incomplete, remove them."""

    def read_consistently(self, read: Callable[[Location], T]) -> T:
        """Read a part of an output while a job may replace it; return the old or the new content.

        ``read`` reads the part at the location that it is given, and returns the content.

        Raises:
            StatecastError: raised by ``read``.
            DataError: the part is replaced during every attempt.
        """
