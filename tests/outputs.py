"""What jobs leave in their output folders on a disk."""

from __future__ import annotations

from pipelines.storage import Location
from tests.stores import on_disk


def contents(place: Location) -> dict[str, bytes]:
    """Every file below a folder, by its path from there."""
    folder = on_disk(place)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Location) -> list[str]:
    """What a job should have cleared away; its numbers and how its shards ended stay, for who looks later."""
    kept = (".numbers", ".run", ".ended-")
    return [p.name for p in folder.glob(".*") if not p.name.startswith(kept)]
