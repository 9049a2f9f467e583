"""A process that dies at one of its changes, as tests of crashes have it in their own process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Killed(BaseException):
    """What stands for the death of a process at one of its changes."""


@dataclass
class Mortal:
    """The changes of a process that dies at one of them, before or after it, with all its threads."""

    left: int
    after: bool
    ghosts: frozenset[threading.Thread]  # threads of processes that died before
    dead: bool = False
    lock: Any = field(default_factory=threading.RLock)  # a change may be made of others

    def of(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """A change as this process makes it."""

        def made(*given: Any, **options: Any) -> Any:
            with self.lock:
                if threading.current_thread() in self.ghosts:
                    raise Killed
                self.left -= 1
                if self.dead or self.left < 0:
                    if self.after and not self.dead:
                        change(*given, **options)
                    self.dead = True
                    raise Killed
                return change(*given, **options)

        return made


Tree = dict[str, tuple[bytes, int]]
"""Files by their path under a folder: what they hold, and when that was written (nanoseconds since 1970)."""


class Renames:
    """What is in a folder of a disk after each rename: for who is killed, and for who loses power.

    A kill leaves all; without power only what was synced is kept: a file by itself, its name by its folder.

    Attributes:
        left: the trees of both.
    """

    def __init__(self, folder: Path, but: tuple[str, ...], slow: tuple[str, ...], slow_s: float) -> None:
        self.folder, self.but, self.slow, self.slow_s = folder, but, slow, slow_s
        self.left: list[Tree] = []
        self._kept = _tree(folder, but)
        self._synced = {_identity(path) for path in folder.rglob("*")}
        self._lock = threading.RLock()
        self._replace, self._fsync = os.replace, os.fsync

    def replace(self, source: Any, target: Any) -> None:
        """`os.replace`; renames into ``slow`` folders take ``slow_s``."""
        if Path(target).parent.name in self.slow:
            time.sleep(self.slow_s)
        with self._lock:
            self._replace(source, target)
            self._take(_tree(self.folder, self.but))
            self._take(dict(self._kept))

    def fsync(self, descriptor: int) -> None:
        """`os.fsync`."""
        with self._lock:
            self._fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").resolve()
            self._synced.add(_identity(path))
            if path.is_dir() and path.is_relative_to(self.folder):
                within = f"{path.relative_to(self.folder)}/".removeprefix("./")
                found = _tree(self.folder, self.but, self._synced)
                self._kept = {name: one for name, one in self._kept.items() if not name.startswith(within)}
                self._kept |= {name: one for name, one in found.items() if name.startswith(within)}

    def _take(self, tree: Tree) -> None:
        if tree not in self.left:
            self.left.append(tree)


def put_back(folder: Path, tree: Tree) -> None:
    """Has a folder hold what it held once, as old as it was."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, (data, written_ns) in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        os.utime(folder / name, ns=(written_ns, written_ns))


def _identity(path: Path) -> tuple[int, int]:
    """Of a file as it is: a disk gives the number of one that is gone to another."""
    told = path.stat()
    return told.st_ino, told.st_mtime_ns


def _tree(folder: Path, but: tuple[str, ...], synced: set[tuple[int, int]] | None = None) -> Tree:
    found: Tree = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        # a file under a hidden name is on its way to another
        if path.is_file() and not name.startswith(but) and not path.name.startswith("."):
            identity = _identity(path)
            if synced is None or identity in synced:
                found[name] = path.read_bytes(), identity[1]
    return found
