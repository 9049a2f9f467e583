"""Identify a file by name, size and time of change, so that callers recognize a changed or replaced file."""

from __future__ import annotations

from pathlib import Path

Identity = tuple[str, int, int]
"""Name, size in bytes and modification time in nanoseconds of a file; a change of the file changes them."""


def identity_of(path: Path) -> Identity | None:
    """Return the identity (name, size, modification time) of a file; None if `stat` fails."""
    try:
        at = path.stat()
    except OSError:
        return None
    return path.name, at.st_size, at.st_mtime_ns
