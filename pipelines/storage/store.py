"""The operations on a file or folder that a disk and an object store do in different ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar, TypeAlias, TypeVar

from pipelines.storage.remote import Location

Target: TypeAlias = Path | BytesIO
"""A path or a buffer; writers of file formats accept both."""

T = TypeVar("T")


def _never_lost() -> None:
    """Raise nothing, because a lock on a disk cannot be lost."""


@dataclass(frozen=True)
class Held:
    """Checks whether a job still holds the lock of its output folder.

    Attributes:
        check: raises `OutputError` after the job has noticed that another job took the lock; it makes no
            request.
        confirm: reads the locks in the store, and raises `OutputError` if another job has taken the lock.
    """

    check: Callable[[], None] = _never_lost
    confirm: Callable[[], None] = _never_lost

    def __call__(self) -> None:
        """Call ``check``."""
        self.check()


class Store(ABC):
    """One file or folder, on a disk (`DiskStore`) or in an object store (`ObjectStore`).

    `pipelines.storage.store_of` returns the store of a location. A location itself has what paths and objects
    have in common: names, ``exists``, ``glob``, ``read_bytes``, ``unlink``. Every method raises `OSError` if
    the disk or the store refuses it, except where its docstring names another error.
    """

    has_folders: ClassVar[bool]
    """Whether a file can be written only into a folder that exists."""

    bills_requests: ClassVar[bool]
    """Whether each request costs money, so that requests are made seldom."""

    can_append: ClassVar[bool]
    """Whether `append` and `remove_incomplete_line` can be called."""

    @property
    @abstractmethod
    def on_disk(self) -> Path | None:
        """The path on a disk, for code that needs one, such as another program; None in an object store."""

    # --- files ---------------------------------------------------------------------------------------------

    @abstractmethod
    def write_whole(
        self,
        write: Callable[[Target], object],
        *,
        kept: bool = False,
        is_ours: Callable[[], bool] | None = None,
    ) -> bool:
        """Write the file so that it appears complete, or not at all; see `pipelines.storage.write_whole`."""

    @abstractmethod
    def version(self) -> str:
        """Return the version of the file, for `write_owned`; "" if there is no file, or files have none."""

    @abstractmethod
    def write_owned(
        self, write: Callable[[Target], object], seen: str, is_ours: Callable[[], bool]
    ) -> str | None:
        """Replace the file if it still has the version ``seen``; see `pipelines.storage.OwnedFile`.

        Returns:
            The new version; None if ``is_ours`` returned False.
        """

    @abstractmethod
    def source(self) -> Target:
        """Return the file as a path or buffer, which readers of file formats accept."""

    @abstractmethod
    def written_ns(self) -> int:
        """Return when the file was written, in nanoseconds since 1970; for an object, the listed time."""

    @abstractmethod
    def written_before_ns(self) -> int:
        """Return a time such that files with a later or the same time were written after this file.

        An object store gives times in whole seconds, so there this is the end of the second.
        """

    @abstractmethod
    def sync(self) -> None:
        """Wait until the file, or the list of names in the folder, survives a loss of power."""

    def append(self, data: bytes) -> None:
        """Append to the file, and create it and its folder if needed; on return the data are durable.

        If this raises, the file is unchanged.
        """
        raise NotImplementedError

    def remove_incomplete_line(self) -> None:
        """Remove the incomplete last line that a crash during `append` may leave."""
        raise NotImplementedError

    # --- folders -------------------------------------------------------------------------------------------

    @abstractmethod
    def make_folder(self) -> None:
        """Create the folder and its parents durably, if the store has folders."""

    @abstractmethod
    def prepare(self, parts: Iterable[str]) -> None:
        """Create an output folder and the folders ``parts`` in it, and remove incomplete files.

        Raises:
            OutputError: the folder cannot be written to.
        """

    @abstractmethod
    def remove_tree(self) -> None:
        """Remove the folder and its content as far as possible; errors are ignored."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free bytes on the disk; None in an object store."""

    @abstractmethod
    def check_writable(self) -> None:
        """Check that the folder exists or can be created, and can be written to; create nothing.

        Raises:
            OutputError: the folder cannot be created or written to.
        """

    @abstractmethod
    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Location:
        """Copy the files of the folder, except hidden ones, durably into a new folder beside it.

        Args:
            name: name of the new folder.
            never_change: returns from its name whether a file is never changed, so that a hard link suffices.
        """

    # --- outputs -------------------------------------------------------------------------------------------

    @abstractmethod
    def locked(self) -> AbstractContextManager[Held]:
        """Lock the output folder against other jobs; see `pipelines.storage.locked`."""

    @abstractmethod
    def was_locked(self) -> bool:
        """Return whether a job holds the lock of the output folder, or, in an object store, ever held it."""

    @abstractmethod
    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        """Replace folders of the output by those in its hidden folder; see `pipelines.storage.replace_parts`.

        Args:
            hidden: name of the hidden folder, which is in this folder.
            parts: names of the folders.
        """

    @abstractmethod
    def complete_replacement(self, hidden: str) -> None:
        """Complete a `replace_parts` that was killed; remove a hidden folder that is incomplete."""

    @abstractmethod
    def read_consistently(self, read: Callable[[Location], T]) -> T:
        """Read a part of an output that a job may be replacing now; return its old or its new content.

        Args:
            read: reads the part at the location that it is given, and returns the content.

        Raises:
            StatecastError: raised by ``read``.
            DataError: the part is replaced during every attempt.
        """
