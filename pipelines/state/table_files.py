"""Write the files of a state table, replace a table as a whole, and copy it under another name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from forecaster.durable import sync_path, sync_tree
from forecaster.shards.shard import Shard
from pipelines.state.snapshot_file import NAME, write_shard
from pipelines.storage import (
    Location,
    Remote,
    complete_replacement_in_store,
    make_folder,
    markers,
    output_errors,
    remove_temporaries,
    replace_in_store,
    write_to,
    write_whole,
)


def write(folder: Location, shards: Sequence[Shard], also: Location | None = None) -> None:
    """Write a complete table, and put it in the place of the existing one.

    Args:
        folder: folder of the table.
        shards: all shards.
        also: folder whose manifests are copied into the table; None for no manifests.

    Raises:
        OutputError: the table cannot be written or put in place; `recover` then restores a complete table.
    """
    with output_errors(f"{folder}: the state table cannot be put in place"):
        if isinstance(folder, Remote):
            _write_to_store(folder, shards, also)
        else:
            _write_to_disk(folder, shards, also if isinstance(also, Path) else None)


def _write_to_disk(folder: Path, shards: Sequence[Shard], also: Path | None) -> None:
    new = folder.with_name(markers.new_table(folder.name))
    shutil.rmtree(new, ignore_errors=True)
    for shard in shards:
        write_shard(new, shard)
    for path in () if also is None else also.iterdir():
        if path.is_file() and not NAME.fullmatch(path.name) and not path.name.startswith("."):
            _copy_file(path, new / path.name)
    sync_path(folder.parent)
    old = folder.with_name(markers.old_table(folder.name))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    sync_path(folder.parent)  # the new table must be on the disk before the old one is deleted
    shutil.rmtree(old, ignore_errors=True)


def _write_to_store(folder: Remote, shards: Sequence[Shard], also: Location | None) -> None:
    hidden = folder.with_name(markers.new_table(folder.name))
    complete_replacement_in_store(hidden, folder.parent)
    for shard in shards:
        write_shard(hidden / folder.name, shard)
    for path in () if also is None else also.glob("*.json*"):
        (hidden / folder.name / path.name).write_bytes(path.read_bytes())
    replace_in_store(hidden, folder.parent, [folder.name])


def _copy_file(path: Path, copy: Path) -> None:
    write_whole(copy, partial(write_to, data=path.read_bytes()), kept=True)


def copy_aside(folder: Location) -> Location | None:
    """Copy a table to a new name beside it, before a job begins anew in its folder.

    The copy is never deleted. Snapshots never change once they are written, so on a disk the copies are hard
    links, which need no space.

    Returns:
        The copy; None if no table exists.

    Raises:
        OutputError: the table cannot be copied.
    """
    files = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if not files:
        return None
    aside = folder.with_name(f"{folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    with output_errors(f"{aside}: the earlier state cannot be kept there"):
        make_folder(aside)
        for path in files:
            _copy_durably(path, aside / path.name)
        if isinstance(aside, Path):
            sync_path(aside)
    return aside


def _copy_durably(path: Location, copy: Location) -> None:
    if isinstance(path, Remote) and isinstance(copy, Remote):
        path.copy(copy)
    elif isinstance(path, Path) and isinstance(copy, Path):
        if path.is_dir():  # a table of format 1 has subfolders
            shutil.copytree(path, copy)
            sync_tree(copy)
            return
        if NAME.fullmatch(path.name):
            with suppress(OSError):  # not every file system has hard links
                os.link(path, copy)
                return
        _copy_file(path, copy)


def recover(folder: Location) -> None:
    """Finish the work of a `write` that was killed.

    Raises:
        OutputError: a folder cannot be renamed, or an object store cannot be reached.
    """
    with output_errors(f"{folder}: cannot be put in place"):
        if isinstance(folder, Remote):
            complete_replacement_in_store(folder.with_name(markers.new_table(folder.name)), folder.parent)
        else:
            _recover_on_disk(folder)


def _recover_on_disk(folder: Path) -> None:
    new = folder.with_name(markers.new_table(folder.name))
    old = folder.with_name(markers.old_table(folder.name))
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    if new.exists() or old.exists():
        sync_path(folder.parent)  # the renames must be on the disk before the other folders are deleted
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    remove_temporaries(folder)
