"""The files of a state table: written as a whole, put in the place of another, kept aside."""

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
    Target,
    complete_replacement_in_store,
    make_folder,
    remove_temporaries,
    replace_in_store,
    write_whole,
)
from schemas.errors import OutputError


def write(folder: Location, shards: Sequence[Shard], also: Location | None = None) -> None:
    """Writes a whole table and puts it in the place of the one that is there.

    Args:
        folder: the table.
        shards: all of them.
        also: folder whose other files, the manifests of sources, go with it.
    """
    if isinstance(folder, Remote):
        _put(folder, shards, also)
        return
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for shard in shards:
        write_shard(new, shard)
    try:
        for path in also.iterdir() if isinstance(also, Path) else ():
            if _goes_with_table(path):
                write_whole(new / path.name, partial(_copy, path), kept=True)
        sync_path(folder.parent)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
        sync_path(folder.parent)  # before the old one goes
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: the state table cannot be put in place: {error.strerror}") from error


def _goes_with_table(path: Path) -> bool:
    return path.is_file() and not NAME.fullmatch(path.name) and not path.name.startswith(".")


def _copy(path: Location, target: Target) -> None:
    if isinstance(target, Path):
        target.write_bytes(path.read_bytes())
    else:
        target.write(path.read_bytes())


def _put(folder: Remote, shards: Sequence[Shard], also: Location | None) -> None:
    hidden = folder.with_name(f".{folder.name}.new")
    try:
        complete_replacement_in_store(hidden, folder.parent)
        for shard in shards:
            write_shard(hidden / folder.name, shard)
        for path in () if also is None else also.glob("*.json*"):
            (hidden / folder.name / path.name).write_bytes(path.read_bytes())
        replace_in_store(hidden, folder.parent, [folder.name])
    except OSError as error:
        raise OutputError(f"{folder}: the state table cannot be put in place: {error.strerror}") from error


def copy_aside(folder: Location) -> Location | None:
    """Copy a table to another name beside it, before a job begins anew in its place; the copy survives all.

    Snapshots are never changed once they are written, so on a disk they take no more room.

    Returns:
        The copy; None where there is no table.

    Raises:
        OutputError: it cannot be copied.
    """
    files = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if not files:
        return None
    aside = folder.with_name(f"{folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    try:
        make_folder(aside)
        for path in files:
            _keep(path, aside / path.name)
        if isinstance(aside, Path):
            sync_path(aside)
    except OSError as error:
        raise OutputError(f"{aside}: the earlier state cannot be kept there: {error.strerror}") from error
    return aside


def _keep(path: Location, copy: Location) -> None:
    if isinstance(path, Remote) and isinstance(copy, Remote):
        path.copy(copy)
    elif isinstance(path, Path) and isinstance(copy, Path):
        if path.is_dir():  # of a table of format 1
            shutil.copytree(path, copy)
            sync_tree(copy)
            return
        if NAME.fullmatch(path.name):
            with suppress(OSError):  # not every disk can
                os.link(path, copy)
                return
        write_whole(copy, partial(_copy, path), kept=True)


def recover(folder: Location) -> None:
    """Ends what a `write` that was killed had begun.

    Raises:
        OutputError: an object store cannot be reached.
    """
    if isinstance(folder, Remote):
        try:
            complete_replacement_in_store(folder.with_name(f".{folder.name}.new"), folder.parent)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be put in place: {error.strerror}") from error
        return
    new, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
    try:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        if new.exists() or old.exists():
            sync_path(folder.parent)  # before what is left of the others goes
    except OSError as error:
        raise OutputError(f"{folder}: cannot be put in place: {error.strerror}") from error
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    remove_temporaries(folder)
