"""Write files that one job replaces repeatedly, until another job takes over the output folder."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.storage.files import store_of
from pipelines.storage.remote import Location
from pipelines.storage.store import Target


class OwnedFile:
    """A file that one job owns, such as the owner file of an output folder or the snapshot of a shard.

    Checking the owner and writing are two steps. A job may be suspended between these steps for so long that
    another job takes its output over. So an object in S3 is replaced only if the store still holds the
    version that this job saw last. On a disk and in other stores, only the owner is checked.

    Args:
        path: path of the file; the version that exists now counts as seen.

    Raises:
        OSError: the store cannot be reached.
    """

    def __init__(self, path: Location) -> None:
        self._store = store_of(path)
        self._seen = self._store.version()

    @property
    def has_version(self) -> bool:
        """Whether the store has given the file a version, which changes with each write; only S3 does."""
        return bool(self._seen)

    def write(self, write: Callable[[Target], object], is_ours: Callable[[], bool]) -> bool:
        """Replace the file if this job still owns it, and wait until the file survives a loss of power.

        Args:
            write: writes the content to the path or buffer that it is given.
            is_ours: returns whether this job still owns the file. This is called after the content is
                written. It is called again if the store holds another version, which a job without the output
                may have put.

        Returns:
            Whether the file is in place; False if ``is_ours`` returned False.

        Raises:
            OSError: the file cannot be written.
        """
        version = self._store.write_whole(write, kept=True, is_ours=is_ours, seen=self._seen)
        if version is None:
            return False
        self._seen = version
        return True
