"""A snapshot as a file: one shard whole, in the folder that is the state table.

The file carries the checksum of all its bytes in its Parquet metadata, which whoever opens it compares.
Those of earlier versions have none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from forecaster.shards import snapshot
from forecaster.shards.shard import Shard
from pipelines import storage
from pipelines.storage import Location, OwnedFile, Target, make_folder, write_whole
from schemas.errors import DataError, ModelError, OutputError

NAME: Final = re.compile(r"shard-(\d{4,})-of-(\d{4,})\.parquet")
"""The name of a snapshot: a shard, and of how many."""

_SECOND_NS = 10**9
_CHECKSUM: Final = b"statecast.checksum"
_UNKNOWN: Final = b"00000000"  # stands for the checksum while that is computed
# A name and a value in Parquet's footer: each is text of a length that a byte before it says.
_FOUND: Final = re.compile(re.escape(_CHECKSUM) + rb"\x18\x0ecrc32:([0-9a-f]{8})")
_CHUNK_BYTES: Final = 4 << 20


def owned(folder: Location, number: int, of: int) -> OwnedFile:
    """Return the snapshot of a shard as its run writes it, which opens the shard after this call.

    Raises:
        DataError: the object store cannot be reached.
    """
    path = folder / _name(number, of)
    try:
        return OwnedFile(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be looked at: {error.strerror or error}") from error


def write_shard(
    folder: Location,
    shard: Shard,
    is_ours: Callable[[], bool] = lambda: True,
    file: OwnedFile | None = None,
) -> bool:
    """Write a snapshot: whole, or not at all.

    Args:
        folder: the state table.
        shard: all of it.
        is_ours: whether the table still belongs to this run, asked when everything is written.
        file: the snapshot's file as `owned` returns it; None where no other job can know the folder.

    Returns:
        Whether the snapshot is in place.

    Raises:
        OutputError: it cannot be written.
    """
    path, table = folder / _name(shard.number, shard.of), snapshot.to_arrow(shard)
    try:
        make_folder(folder)
        if file is not None:
            return file.write(partial(write_table, table), is_ours)
        return write_whole(path, partial(write_table, table), kept=True, is_ours=is_ours)
    except OSError as error:
        raise OutputError(f"{path}: the state cannot be written: {error.strerror or error}") from error


def write_table(table: pa.Table, target: Target) -> None:
    """Write a table as Parquet with a checksum of the whole file."""
    metadata = {**(table.schema.metadata or {}), _CHECKSUM: b"crc32:" + _UNKNOWN}
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, target, use_dictionary=["model_version"], write_statistics=False)
    if isinstance(target, Path):
        with target.open("r+b") as file:
            _put_checksum(file)
    else:
        _put_checksum(target)


def _put_checksum(file: BinaryIO) -> None:
    place = _place_of_checksum(file)
    assert place is not None, "Parquet wrote the metadata in another form"
    checksum = _checksum(file, place)
    file.seek(place)
    file.write(checksum)


def check_checksum(file: BinaryIO) -> None:
    """Compare a file with the checksum that it carries, if it has one, and go back to its beginning.

    Raises:
        OSError: the file was changed after it was written.
    """
    place = _place_of_checksum(file)
    if place is not None:
        file.seek(place)
        if file.read(len(_UNKNOWN)) != _checksum(file, place):
            raise OSError("it is damaged: its checksum does not match")
    file.seek(0)


def _place_of_checksum(file: BinaryIO) -> int | None:
    """Return where the checksum begins in a file; None of a file without one, Parquet or not."""
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    start = size - 8 - int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or start < 0:
        return None
    file.seek(start)
    found = _FOUND.search(file.read(size - 8 - start))
    return None if found is None else start + found.start(1)


def _checksum(file: BinaryIO, place: int) -> bytes:
    """Return the checksum of a file without the 8 bytes at ``place``."""
    file.seek(0)
    checksum, left = 0, place
    while left:
        part = file.read(min(left, _CHUNK_BYTES))
        checksum, left = zlib.crc32(part, checksum), left - len(part)
    file.seek(len(_UNKNOWN), 1)
    while part := file.read(_CHUNK_BYTES):
        checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}".encode()


def read_shard(folder: Location, number: int, of: int) -> Shard:
    """The last snapshot of a shard.

    Raises:
        DataError: there is none, or the file cannot be read.
        ModelError: it is of a format that this version does not read.
    """
    return read_file(folder / _name(number, of))


def written_ns(folder: Location, number: int, of: int) -> int:
    """When the last snapshot of a shard was written, in nanoseconds since 1970.

    An object store knows the second, and this is its end: who is not sure does not call another file newer.
    """
    name = _name(number, of)
    if isinstance(folder, Path):
        return storage.written_ns(folder / name)
    return max(storage.written_ns(path) // _SECOND_NS + 1 for path in folder.glob(name)) * _SECOND_NS


def _name(number: int, of: int) -> str:
    return f"shard-{number:04d}-of-{of:04d}.parquet"


def read_file(path: Location, *, series: bool = True) -> Shard:
    """The shard in a snapshot's file.

    Args:
        path: the file.
        series: with its series and their rows; without them it says where it stands, and is read at once.

    Raises:
        DataError: the file cannot be read.
        ModelError: it is of a format that this version does not read.
    """
    try:
        with path.open("rb") as file:  # opened once: a path may be another snapshot the second time
            if series:
                check_checksum(file)
            parquet = pq.ParquetFile(file)
            return snapshot.from_arrow(parquet.read() if series else parquet.schema_arrow.empty_table())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(unreadable(path, error)) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def unreadable(path: Location, error: BaseException) -> str:
    """What is said of a file that is no Parquet."""
    why = " ".join(str(error).split())[:200]
    return f"{path}: not a readable Parquet file: {why}: put back a copy of the folder, or begin without it"
