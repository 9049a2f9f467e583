"""Write the files of a state table, replace a table as a whole, and copy it under another name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from forecaster.durable import remove_temporaries, sync_path
from forecaster.shards.shard import Shard
from pipelines.state.snapshot_file import NAME, write_shard
from pipelines.storage import Location, markers, output_errors, store_of, write_to, write_whole


def write(folder: Location, shards: Sequence[Shard], also: Location | None = None) -> None:
    """Write a new state table, which replaces the existing table as a whole.

    Args:
        folder: folder of the table.
        shards: all shards.
        also: folder whose manifests are copied into the table; None for no manifests.

    Raises:
        OutputError: the table cannot be written or put in place; a call of `recover` restores a complete
            table.
    """
    new, output = markers.new_table(folder.name), store_of(folder.absolute().parent)
    hidden = folder.with_name(new) / folder.name
    with output_errors(f"{folder}: the state table cannot be put in place"):
        output.complete_replacement(new)
        for shard in shards:
            write_shard(hidden, shard)
        for path in () if also is None else also.glob("[!.]*.json*"):
            write_whole(hidden / path.name, partial(write_to, data=path.read_bytes()), kept=True)
        output.replace_parts(new, [folder.name])


def copy_aside(folder: Location) -> Location | None:
    """Copy a state table to a new name beside it, before a job begins anew in its folder.

    The copy is never deleted. Snapshot files never change, so on a disk their copies are hard links, which
    need no space.

    Returns:
        The copy; None if no table exists.

    Raises:
        OutputError: the table cannot be copied.
    """
    if not any(folder.glob("[!.]*")):
        return None
    aside = f"{folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    with output_errors(f"{folder.with_name(aside)}: the earlier state cannot be kept there"):
        return store_of(folder).copy_beside(aside, lambda name: NAME.fullmatch(name) is not None)


def recover(folder: Location) -> None:
    """If `write` was killed, put its new state table in place if it is complete, and else remove it.

    Raises:
        OutputError: a folder cannot be renamed, or an object store cannot be reached.
    """
    with output_errors(f"{folder}: cannot be put in place"):
        disk = store_of(folder).on_disk
        if disk is not None:
            _complete_of_earlier_version(disk, disk.with_name(markers.old_table(disk.name)))
            remove_temporaries(disk)
        store_of(folder.absolute().parent).complete_replacement(markers.new_table(folder.name))


def _complete_of_earlier_version(folder: Path, old: Path) -> None:
    """Rename ``old`` back to ``folder`` if ``folder`` does not exist; otherwise delete ``old``.

    Earlier versions of Statecast moved a state table to ``old`` before they put the new table in place. If
    such a job was killed between the two steps, only ``old`` exists.
    """
    if old.exists() and not folder.exists():
        os.replace(old, folder)
        sync_path(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
