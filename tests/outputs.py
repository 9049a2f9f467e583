"""Functions that read the files of a job's output folder on a disk."""

from __future__ import annotations

from pipelines.storage import Location
from tests.stores import on_disk


def contents(place: Location) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path relative to the folder."""
    folder = on_disk(place)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Location) -> list[str]:
    """Return the names of hidden files that a job that has ended should have removed.

    A job keeps its counts (``.numbers``), the name of its run, and the markers of ended shards.
    """
    kept = (".numbers", ".run", ".ended-")
    return [p.name for p in folder.glob(".*") if not p.name.startswith(kept)]
