"""A snapshot as a file: one shard whole, in the folder that is the state table."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from forecaster import snapshot
from forecaster.shard import Shard
from pipelines import storage
from pipelines.storage import Location, make_folder, write_whole
from schemas.errors import DataError, ModelError, OutputError

NAME: Final = re.compile(r"shard-(\d{4,})-of-(\d{4,})\.parquet")
"""The name of a snapshot: a shard, and of how many."""

_SECOND_NS = 10**9


def write_shard(folder: Location, shard: Shard) -> None:
    """Writes a snapshot: whole, or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    path, table = folder / _name(shard.number, shard.of), snapshot.to_arrow(shard)
    parquet = partial(pq.write_table, table, use_dictionary=["model_version"], write_statistics=False)
    try:
        make_folder(folder)
        write_whole(path, parquet, kept=True)
    except OSError as error:
        raise OutputError(f"{path}: the state cannot be written: {error.strerror or error}") from error


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
            parquet = pq.ParquetFile(file)
            return snapshot.from_arrow(parquet.read() if series else parquet.schema_arrow.empty_table())
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(unreadable(path, error)) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def unreadable(path: Location, error: BaseException) -> str:
    """What is said of a file that is no Parquet."""
    return f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}"
