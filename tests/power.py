"""What a kill or a loss of power leaves on a disk after each file operation.

A disk keeps the content of a file once the file is synced, and a name once a folder of the operation is
synced. Of the rest a loss of power may leave anything; the states here are: no unsynced operation, the
first few, all of them, each with unsynced content lost or cut in half. A rename is one operation: it is
there in both folders or in neither.
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
"""Content and time of writing (nanoseconds since 1970) of files by their paths; None of a folder."""

_ROOT = -1
_SLOW_S = 0.03


@dataclass
class _Operation:
    """A change of names: one is gone, one is made; a disk keeps it once a folder of theirs is synced."""

    gone: tuple[int, str] | None
    made: tuple[int, str, int] | None
    is_kept: bool = False

    @property
    def folders(self) -> set[int]:
        return {change[0] for change in (self.gone, self.made) if change is not None}


@dataclass
class _Content:
    data: bytes
    written_ns: int
    kept: bytes = b""


@dataclass
class PowerLoss:
    """Records the file operations of this process under a folder.

    Attributes:
        folder: which.
        ignored: beginnings of the paths under it that do not matter.
        every_prefix: states for every number of unsynced operations, not for none and all only.
        slow: names of folders into which a rename takes its time: who does not wait for it is seen to.
        left: the distinct states, in order.
    """

    folder: Path
    ignored: tuple[str, ...] = ()
    every_prefix: bool = True
    slow: tuple[str, ...] = ()
    left: list[Tree] = field(default_factory=list)
    _operations: list[_Operation] = field(default_factory=list)
    _names: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})
    _contents: dict[int, _Content] = field(default_factory=dict)
    _held: dict[tuple[int, int], int] = field(default_factory=dict)
    _seen: set[tuple[tuple[str, Any], ...]] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.RLock)
    _real: dict[str, Callable[..., Any]] = field(default_factory=dict)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record while the block runs; what is there at its beginning is on the disk for good."""
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

    def put_back(self, tree: Tree) -> None:
        """Have the folder hold what it held once, as old as it was."""
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
                self._look()  # what was written since then
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
        """Return a number that no other file ever has: held open, its inode is not used again."""
        if path == self.folder:
            return _ROOT
        key = (found.st_dev, found.st_ino)
        if key not in self._held:
            self._held[key] = os.open(path, os.O_RDONLY)
        return self._held[key]

    def _look(self) -> None:
        """Compare the folder with what is known of it, and note the differences as operations."""
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
            if name not in names.get(folder, {})  # else another took its place, in one operation
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
            self.left.append(tree)

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
    """What was synced, and half of what was written after it."""
    if not content.data.startswith(content.kept):
        return content.data[: len(content.data) // 2]
    return content.data[: (len(content.kept) + len(content.data)) // 2]


@contextmanager
def suppress_vanished() -> Iterator[None]:
    """A folder that another thread removes while it is read is looked at again after the next operation."""
    try:
        yield
    except FileNotFoundError:
        return
