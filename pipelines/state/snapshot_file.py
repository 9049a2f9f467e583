"""Write and read a snapshot: one shard in one Parquet file of the state table.

The Parquet metadata holds a checksum of the whole file, which is checked when the file is read. Files of
early versions have no checksum.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from forecaster.shards import snapshot
from forecaster.shards.shard import Shard
from pipelines.storage import Location, OwnedFile, Target, output_errors, store_of, write_whole
from schemas.errors import DataError, ModelError, one_line

NAME: Final = re.compile(r"shard-(\d{4,})-of-(\d{4,})\.parquet")
"""File name of a snapshot: the number of the shard, and the number of shards."""

_CHECKSUM: Final = b"statecast.checksum"
_PLACEHOLDER: Final = b"00000000"  # written first, and then replaced by the checksum
# Finds the checksum in Parquet's footer: its key, two bytes for the type and length, and its value.
_CHECKSUM_PATTERN: Final = re.compile(re.escape(_CHECKSUM) + rb"\x18\x0ecrc32:([0-9a-f]{8})")
_RUN: Final = b"statecast.run"  # metadata key: the id of the run that rewrote the snapshot in `take_over`
# Metadata key: when the snapshot was first written; a run that takes the snapshot over keeps this time.
_FIRST_WRITTEN: Final = b"statecast.first_written_ns"
_CHUNK_BYTES: Final = 4 << 20
# Rows of a Parquet row group: few, because reading one series reads its whole row group.
_ROWS_OF_A_GROUP: Final = 8192


def snapshot_paths(folder: Location) -> list[Location]:
    """Return the snapshots in a folder, sorted by name."""
    found = [path for path in folder.glob("*.parquet") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def owned(folder: Location, number: int, of: int) -> OwnedFile:
    """Return a shard's snapshot as an `OwnedFile`.

    Call this before the snapshot is read, so that a later write detects whether another job has replaced
    the snapshot.

    Raises:
        DataError: the object store cannot be reached.
    """
    path = folder / _file_name(number, of)
    try:
        return OwnedFile(path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: the store did not return the version of this file: {reason}") from error


def write_shard(
    folder: Location,
    shard: Shard,
    is_ours: Callable[[], bool] = lambda: True,
    file: OwnedFile | None = None,
) -> bool:
    """Write a snapshot of a shard; after an error, an earlier snapshot is unchanged.

    Args:
        folder: folder of the state table.
        shard: the shard.
        is_ours: returns whether the run still owns the folder; called just before the written file is put in
            place.
        file: the file that `owned` returned; None if no other job can use the folder.

    Returns:
        Whether the snapshot is in place.

    Raises:
        OutputError: the file cannot be written.
    """
    path, table = folder / _file_name(shard.number, shard.of), snapshot.to_arrow(shard)
    with output_errors(f"{path}: the state cannot be written"):
        store_of(folder).make_folder()
        if file is not None:
            return file.write(partial(write_table, table), is_ours)
        return write_whole(path, partial(write_table, table), kept=True, is_ours=is_ours)


def write_table(table: pa.Table, target: Target) -> None:
    """Write an Arrow table as a Parquet file; the metadata holds a checksum of all other bytes."""
    metadata = {**(table.schema.metadata or {}), _CHECKSUM: b"crc32:" + _PLACEHOLDER}
    table = table.replace_schema_metadata(metadata)
    pq.write_table(
        table,
        target,
        row_group_size=_ROWS_OF_A_GROUP,
        use_dictionary=["model_version"],
        write_statistics=False,
    )
    if isinstance(target, Path):
        with target.open("r+b") as file:
            _insert_checksum(file)
    else:
        _insert_checksum(target)


def _insert_checksum(file: BinaryIO) -> None:
    place = _place_of_checksum(file)
    assert place is not None, "Parquet wrote the metadata in another form"
    checksum = _checksum(file, place)
    file.seek(place)
    file.write(checksum)


def check_checksum(file: BinaryIO) -> None:
    """Check that a file matches its checksum, if it has one, and seek to the beginning of the file.

    Raises:
        OSError: the file is damaged.
    """
    place = _place_of_checksum(file)
    if place is not None:
        file.seek(place)
        if file.read(len(_PLACEHOLDER)) != _checksum(file, place):
            raise OSError("it is damaged: its checksum does not match")
    file.seek(0)


def _place_of_checksum(file: BinaryIO) -> int | None:
    """Return the position of the checksum in a snapshot; None if the file has none or is not Parquet."""
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    start = size - 8 - int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or start < 0:
        return None
    file.seek(start)
    found = _CHECKSUM_PATTERN.search(file.read(size - 8 - start))
    return None if found is None else start + found.start(1)


def _checksum(file: BinaryIO, place: int) -> bytes:
    """Return the checksum of a file's bytes, except the 8 bytes at ``place``, as 8 hex digits."""
    file.seek(0)
    checksum, left = 0, place
    while left:
        part = file.read(min(left, _CHUNK_BYTES))
        checksum, left = zlib.crc32(part, checksum), left - len(part)
    file.seek(len(_PLACEHOLDER), 1)
    while part := file.read(_CHUNK_BYTES):
        checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}".encode()


def read_shard(folder: Location, number: int, of: int) -> Shard:
    """Read the snapshot of a shard from the folder of the state table, and return the shard.

    Raises:
        DataError: the file is missing or unreadable.
        ModelError: this version of Statecast cannot read the format of the file.
    """
    return read_file(folder / _file_name(number, of))


def take_over(
    file: OwnedFile, folder: Location, number: int, of: int, run: str, is_ours: Callable[[], bool]
) -> tuple[Shard, int]:
    """Read the snapshot of a shard for a run, and prevent earlier runs from replacing the snapshot.

    A worker of an earlier run may be suspended between its check of the owner and its PUT. Later the store
    would accept this PUT if the snapshot still had the version that the worker saw. So where files have
    versions, this function writes the snapshot again under a new version. It adds the id of the run to the
    snapshot, because the version is a hash of the content.

    Args:
        file: the file that `owned` returned.
        folder: folder of the state table.
        number: number of the shard.
        of: number of shards.
        run: id of the run.
        is_ours: returns whether the run still owns the folder.

    Returns:
        The shard, and when its snapshot was first written, in nanoseconds since 1970; see
        `Store.written_ns`.

    Raises:
        DataError: the file is missing or unreadable.
        ModelError: this version of Statecast cannot read the format of the file.
        OutputError: the file cannot be written.
    """
    path = folder / _file_name(number, of)
    with reading(path), path.open("rb") as opened:
        check_checksum(opened)
        table = pq.ParquetFile(opened).read()
        shard, metadata = snapshot.from_arrow(table), table.schema.metadata
        first_ns = metadata.get(_FIRST_WRITTEN)
        written_ns = int(first_ns) if first_ns else store_of(path).written_ns()
    if file.has_version:
        marks = {_RUN: run.encode(), _FIRST_WRITTEN: str(written_ns).encode()}
        table = table.replace_schema_metadata({**metadata, **marks})
        with output_errors(f"{path}: the state cannot be written"):
            file.write(partial(write_table, table), is_ours)
    return shard, written_ns


def _file_name(number: int, of: int) -> str:
    return f"shard-{number:04d}-of-{of:04d}.parquet"


def read_file(path: Location, *, series: bool = True) -> Shard:
    """Read the snapshot in the file ``path``, and return its shard.

    Args:
        path: the file.
        series: whether to read the series and their rows; False reads only offsets, watermarks and counts,
            which is fast.

    Raises:
        DataError: the file is unreadable.
        ModelError: this version of Statecast cannot read the format of the file.
    """
    # Open the file only once, because a job may replace it while it is read.
    with reading(path), path.open("rb") as file:
        if series:
            check_checksum(file)
        parquet = pq.ParquetFile(file)
        return snapshot.from_arrow(parquet.read() if series else parquet.schema_arrow.empty_table())


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """Convert errors of reading a snapshot to a DataError, and name the file in a ModelError."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(unreadable(path, error)) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def unreadable(path: Location, error: BaseException, fix: str = "") -> str:
    """Return the error message for a file that is not readable as Parquet; by default, for a snapshot."""
    fix = fix or f"put back a copy of the state table {path.parent}, or start a new job without it"
    return f"{path}: not a readable Parquet file: {one_line(error)}: {fix}"
