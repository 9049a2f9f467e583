"""A state table as one Parquet file: to look at, to keep, to carry to another machine.

One row a series, as in a snapshot (`forecaster.shards.snapshot`), of all shards together. The file's
metadata holds
the place in the log, where every row went, and the manifests of sources: whoever unpacks it has the table
that was packed, and a stream goes on from it exactly.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, PositiveInt

from forecaster.shards import snapshot
from forecaster.shards.sharding import reshard
from pipelines.sinks.folder import LOCK, locked
from pipelines.state import state_table
from pipelines.state.snapshot_file import check_checksum, unreadable, write_table
from pipelines.storage import Location, Remote, make_folder, read_consistently, was_leased, write_whole
from schemas.errors import DataError, ModelError, OutputError
from schemas.sealed import seal, unseal

_KEY = b"statecast.table"
_MANIFESTS = (".json", ".jsonl")


class _Rest(BaseModel):
    """What of a table is JSON beside its one shard: how many there were, and the manifests by their names."""

    model_config = ConfigDict(extra="forbid")
    shards: PositiveInt
    manifests: dict[str, str]


def pack(folder: Location, file: Path) -> int:
    """Writes the table in ``folder`` as one file, whole or not at all.

    Returns:
        Number of series.

    Raises:
        DataError: there is no table, or its shards stand at different places.
        OutputError: a job is writing the table, or the file cannot be written.
    """
    with _at_rest(folder):
        shards = state_table.read(folder).shards
        manifests = read_consistently(folder, _manifests)
    try:
        (shard,) = reshard(shards, 1)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    table = snapshot.to_arrow(shard)
    rest = {"shards": len(shards), "manifests": manifests}
    table = table.replace_schema_metadata({**table.schema.metadata, _KEY: seal(rest).encode()})
    try:
        make_folder(file.parent)
        write_whole(file, partial(write_table, table), kept=True)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror or error})") from error
    return len(shard.state)


def unpack(file: Path, folder: Location, shards: int | None = None) -> int:
    """Writes the table that ``file`` holds into ``folder``, in the place of one that is there.

    Args:
        file: what `pack` wrote.
        folder: the table's; that of a job, if it is called ``state``.
        shards: into so many; as many as there were by default.

    Returns:
        Number of series.

    Raises:
        DataError: the file is no table.
        ModelError: it is of a format that this version does not read.
        OutputError: a job is writing the table in ``folder``, or it cannot be written.
    """
    try:
        with file.open("rb") as opened:
            check_checksum(opened)
            table = pq.read_table(opened)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(unreadable(file, error)) from error
    if _KEY not in (table.schema.metadata or {}):
        raise DataError(f"{file}: is no table in one file: statecast state export makes one of a table")
    try:
        rest = _Rest.model_validate_json(json.dumps(unseal(table.schema.metadata[_KEY])), strict=True)
        shard = snapshot.from_arrow(table)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    except ValueError as error:
        raise DataError(
            f"{file}: not a table that this version reads: {str(error).splitlines()[0]}"
        ) from None
    made = reshard((shard,), rest.shards if shards is None else shards)
    with _at_rest(folder, makes=True), tempfile.TemporaryDirectory() as others:
        for name, text in rest.manifests.items():
            (Path(others) / Path(name).name).write_text(text)
        state_table.write(folder, made, also=Path(others))
    return len(shard.state)


def _manifests(folder: Location) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*") if path.suffix in _MANIFESTS}


@contextmanager
def _at_rest(folder: Location, *, makes: bool = False) -> Iterator[None]:
    """Keeps jobs off a table that is one's own, which lies in an output folder and is called ``state``."""
    if isinstance(folder, Remote):
        output: Location = folder.parent
        is_job_s = was_leased(folder.parent)
    else:
        output = folder.absolute().parent
        is_job_s = (output / LOCK).exists()
    if folder.name == state_table.FOLDER and (makes or is_job_s):
        with locked(output):
            yield
    else:
        yield
