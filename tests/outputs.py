"""Functions that read the files of a job's output folder on a disk."""

from __future__ import annotations

from pipelines.storage import Location
from tests.stores import on_disk


def contents(place: Location) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path relative to the folder."""
    folder = on_disk(place)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Location) -> list[str]:
    """Return hidden files that a job should have removed: all but its counts and its run and end markers."""
    kept = (".numbers", ".run", ".ended-")
    return [p.name for p in folder.glob(".*") if not p.name.startswith(kept)]
