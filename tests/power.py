"""Simulate the states of a disk after a kill or a power loss at each file operation.

A disk keeps the content of a file once the file is synced, and keeps an operation on names once one of its
folders is synced. After a power loss, any part of the unsynced operations may be on the disk. The states here
have none, the first few, or all of these operations. Unsynced content is lost or cut in half. A rename is one
operation: both folders have it, or neither has it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

Tree = dict[str, tuple[bytes, int] | None]
"""Files by path: content and modification time (nanoseconds since 1970); None for a folder."""

_ROOT = -1
_SLOW_S = 0.03


@dataclass
class _Operation:
    """A change of file names: a name is removed, a name is added, or both, as in a rename.

    Attributes:
        gone: the removed name, after the number of its folder.
        made: number of the folder, added name, and number of the named file or folder.
        is_kept: True once one of the folders is synced.
    """

    gone: tuple[int, str] | None
    made: tuple[int, str, int] | None
    is_kept: bool = False

    @property
    def folders(self) -> set[int]:
        return {change[0] for change in (self.gone, self.made) if change is not None}


@dataclass
class _Content:
    """Content of a file as written (``data``) and as last synced (``kept``)."""

    data: bytes
    written_ns: int
    kept: bytes = b""


@dataclass
class PowerLoss:
    """Records file operations in a folder, and the states in which a power loss could leave the folder.

    Attributes:
        folder: the folder that is recorded.
        ignored: beginnings of relative paths that are left out.
        every_prefix: True for states with each number of kept unsynced operations; False for none or all.
        slow: names of folders into which a rename is slow, so that code that does not wait for it fails.
        states: the distinct states, in order.
    """

    folder: Path
    ignored: tuple[str, ...] = ()
    every_prefix: bool = True
    slow: tuple[str, ...] = ()
    states: list[Tree] = field(default_factory=list)
    _operations: list[_Operation] = field(default_factory=list)
    _names: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})
    _contents: dict[int, _Content] = field(default_factory=dict)
    _held: dict[tuple[int, int], int] = field(default_factory=dict)
    _seen: set[tuple[tuple[str, Any], ...]] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.RLock)
    _real: dict[str, Callable[..., Any]] = field(default_factory=dict)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record file operations while the block runs; files that exist before the block count as synced."""
        self._look()
        for content in self._contents.values():
            content.kept = content.data
        for operation in self._operations:
            operation.is_kept = True
        self._take()
        try:
            with ExitStack() as stack:
                for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync"):
                    self._real[name] = getattr(os, name)
                    stack.enter_context(patch(f"os.{name}", self._recording(name)))
                yield
            self._look()
            self._take()
        finally:
            for descriptor in self._held:
                os.close(self._held[descriptor])

    def restore(self, tree: Tree) -> None:
        """Replace the content of the folder with an earlier state, and restore the times of its files."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, content in sorted(tree.items()):
            path = self.folder / name
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[0])
            os.utime(path, ns=(content[1], content[1]))

    def _recording(self, name: str) -> Callable[..., Any]:
        def made(*given: Any, **options: Any) -> Any:
            if name == "replace" and Path(given[1]).parent.name in self.slow:
                time.sleep(_SLOW_S)
            with self._lock:
                self._look()  # record files created or written since the last recorded operation
                self._take()
                synced = Path(f"/proc/self/fd/{given[0]}").resolve() if name == "fsync" else None
                done = self._real[name](*given, **options)
                if synced is not None:
                    self._sync(synced)
                else:
                    self._look()
                self._take()
                return done

        return made

    def _sync(self, path: Path) -> None:
        if path != self.folder and not path.is_relative_to(self.folder):
            return
        found = path.stat()
        number = self._number(path, found)
        if number in self._contents:
            self._contents[number].kept = self._contents[number].data
        for operation in self._operations:
            operation.is_kept |= number in operation.folders

    def _number(self, path: Path, found: os.stat_result) -> int:
        """Return a number that identifies a file or folder during the recording.

        The number is a descriptor that stays open, so that the file system cannot reuse the inode.
        """
        if path == self.folder:
            return _ROOT
        key = (found.st_dev, found.st_ino)
        if key not in self._held:
            self._held[key] = os.open(path, os.O_RDONLY)
        return self._held[key]

    def _look(self) -> None:
        """Compare the folder with its last known content, and record the differences as operations."""
        names: dict[int, dict[str, int]] = {_ROOT: {}}
        with suppress_vanished():
            self._walk(self.folder, "", _ROOT, names)
        before, self._names = self._names, names
        lost = {
            one: (f, n)
            for f, own in before.items()
            for n, one in own.items()
            if names.get(f, {}).get(n) != one
        }
        for folder, own in names.items():
            for name, one in own.items():
                if before.get(folder, {}).get(name) != one:
                    self._operations.append(_Operation(lost.pop(one, None), (folder, name, one)))
        self._operations += [
            _Operation((folder, name), None)
            for folder, name in lost.values()
            # If another file has the name of the lost file now, record no removal: the operation that
            # adds the other file under this name is recorded, and this operation replaces the lost file.
            if name not in names.get(folder, {})
        ]

    def _walk(self, path: Path, within: str, number: int, names: dict[int, dict[str, int]]) -> None:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            name = f"{within}{entry.name}"
            if name.startswith(self.ignored) and self.ignored:
                continue
            found = entry.stat(follow_symlinks=False)
            one = self._number(Path(entry.path), found)
            names[number][entry.name] = one
            if entry.is_dir(follow_symlinks=False):
                names[one] = {}
                self._walk(Path(entry.path), f"{name}/", one, names)
                continue
            known = self._contents.get(one)
            if known is None or (known.written_ns, len(known.data)) != (found.st_mtime_ns, found.st_size):
                data = Path(entry.path).read_bytes()
                kept = b"" if known is None else known.kept
                self._contents[one] = _Content(data, found.st_mtime_ns, kept)

    def _take(self) -> None:
        unsynced = sum(not operation.is_kept for operation in self._operations)
        self._add(unsynced, lambda content: content.data)
        for count in range(unsynced + 1) if self.every_prefix else {0, unsynced}:
            self._add(count, lambda content: content.kept)
            self._add(count, _half)

    def _add(self, unsynced: int, data_of: Callable[[_Content], bytes]) -> None:
        names: dict[int, dict[str, int]] = {}
        for operation in self._operations:
            if not operation.is_kept:
                unsynced -= 1
                if unsynced < 0:
                    continue
            if operation.gone is not None:
                names.get(operation.gone[0], {}).pop(operation.gone[1], None)
            if operation.made is not None:
                folder, name, one = operation.made
                names.setdefault(folder, {})[name] = one
        tree: Tree = {}
        self._build(names, _ROOT, "", data_of, tree)
        key = tuple(sorted(tree.items()))
        if key not in self._seen:
            self._seen.add(key)
            self.states.append(tree)

    def _build(
        self,
        names: dict[int, dict[str, int]],
        folder: int,
        within: str,
        data_of: Callable[[_Content], bytes],
        tree: Tree,
    ) -> None:
        for name, one in names.get(folder, {}).items():
            content = self._contents.get(one)
            if content is None:
                tree[f"{within}{name}"] = None
                self._build(names, one, f"{within}{name}/", data_of, tree)
            else:
                tree[f"{within}{name}"] = data_of(content), content.written_ns


def _half(content: _Content) -> bytes:
    """Return the content of a file that has lost half of its unsynced bytes.

    If bytes were only appended since the last sync, return the synced bytes and half of the appended bytes.
    If the synced bytes were replaced, return the first half of the new content.
    """
    if not content.data.startswith(content.kept):
        return content.data[: len(content.data) // 2]
    return content.data[: (len(content.kept) + len(content.data)) // 2]


@contextmanager
def suppress_vanished() -> Iterator[None]:
    """End the block without an error if a file or folder vanishes while the block reads it.

    The recorder reads the whole folder again at the next operation.
    """
    try:
        yield
    except FileNotFoundError:
        return
