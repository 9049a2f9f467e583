"""Files that their owner replaces again and again, until another job owns them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from pipelines.storage.remote import Location
from pipelines.storage.write_whole import Target, write_whole


class OwnedFile:
    """A file that one job owns, such as the mark of an output folder or the snapshot of a shard.

    A check of the owner and a write are two steps, between which a job may be suspended for so long that
    another job takes its output over. So an object in S3 is replaced only where it still is the version that
    this job has last seen. On a disk, and in a store without such a PUT, the check alone is made.

    Args:
        path: where the file is; the version that is there now counts as seen.

    Raises:
        OSError: the store cannot be reached.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self._seen = "" if isinstance(path, Path) else path.version()

    def write(self, write: Callable[[Target], object], is_ours: Callable[[], bool]) -> bool:
        """Write the file anew as its owner; on return it survives a loss of power.

        Args:
            write: writes the file to what it is given.
            is_ours: whether this job still owns the file; called when everything is written, and again
                where the store holds another version: a job that lost the output may have put that one.

        Returns:
            Whether the file is in place; False where ``is_ours`` refused.

        Raises:
            OSError: it cannot be written.
        """
        if isinstance(self.path, Path):
            return write_whole(self.path, write, kept=True, is_ours=is_ours)
        data = BytesIO()
        write(data)
        while is_ours():
            put = self.path.replace(data.getvalue(), self._seen)
            if put is not None:
                self._seen = put
                return True
            self._seen = self.path.version()
        return False
