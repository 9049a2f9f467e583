"""Cache the contents of files, and read a file again only after it was written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pipelines.storage import Location, store_of
from schemas.errors import StatecastError

T = TypeVar("T")


class ChangedFiles(Generic[T]):
    """A cache of the contents of files; a file is read again only if it was written again.

    Args:
        read_file: reads one file.
        cost: cost of the contents of a file, which `read` compares with its limit; 1 if it is not given.

    Attributes:
        is_changed: whether the last call of `read` returned other contents than the call before.
        unread: number of files that the last call of `read` left for the next call.
        errors: one line for each file that the last call of `read` could not read.
    """

    def __init__(self, read_file: Callable[[Location], T], cost: Callable[[T], int] = lambda _: 1) -> None:
        self._read_file, self._cost = read_file, cost
        self._kept: dict[str, tuple[int, T]] = {}
        self.is_changed, self.unread = False, 0
        self.errors: list[str] = []

    def read(self, paths: Iterable[Location], most: int | None = None) -> list[T]:
        """Return the contents of ``paths`` in their order, and remove all other files from the cache.

        A file that cannot be read, or is removed meanwhile, is left out.

        Args:
            paths: the files.
            most: largest cost of the files to read from the disk or the store; after the file that reaches
                it, later calls read the other files. None reads all files.
        """
        before, self._kept, self.unread, self.errors = self._kept, {}, 0, []
        left = float("inf") if most is None else most
        for path in paths:
            try:
                at_ns = store_of(path).written_ns()
                kept = before.get(path.name)
                if kept is None or kept[0] != at_ns:
                    if left <= 0:
                        self.unread += 1
                        continue
                    kept = (at_ns, self._read_file(path))
                    left -= self._cost(kept[1])
                self._kept[path.name] = kept
            except FileNotFoundError:
                continue
            except StatecastError as error:
                self.errors.append(str(error))
        self.is_changed = [(name, kept[0]) for name, kept in self._kept.items()] != [
            (name, kept[0]) for name, kept in before.items()
        ]
        return [content for _, content in self._kept.values()]
