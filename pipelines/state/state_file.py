"""Export a state table to one Parquet file, and import it.

An exported table can be inspected, archived, or moved to another machine. The file has the columns of a
snapshot (`forecaster.shards.snapshot`), and one row for each series of all shards. Its metadata holds the
offsets and watermarks, the counts of rows, and the manifests of sources. So a stream with an imported table
resumes exactly where the exported table ended.
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
from pipelines.state import state_table
from pipelines.state.snapshot_file import check_checksum, unreadable, write_table
from pipelines.storage import Location, markers, output_errors, store_of, write_whole
from schemas.errors import DataError, ModelError
from schemas.sealed import seal, unseal

_KEY = b"statecast.table"
_MANIFESTS = (".json", ".jsonl")


class _TableMetadata(BaseModel):
    """The JSON metadata of an exported table: its number of shards, and its manifests by file name."""

    model_config = ConfigDict(extra="forbid")
    shards: PositiveInt
    manifests: dict[str, str]


def pack(folder: Location, file: Path) -> int:
    """Write the state table in ``folder`` into one file; after an error there is no incomplete file.

    Returns:
        Number of series.

    Raises:
        DataError: the folder has no table, or its shards have different offsets.
        OutputError: a job is writing the table, or the file cannot be written.
    """
    with _locked_if_of_job(folder):
        shards = state_table.read(folder).shards
        manifests = store_of(folder).read_consistently(_manifests_in)
    try:
        (shard,) = reshard(shards, 1)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    table = snapshot.to_arrow(shard)
    rest = {"shards": len(shards), "manifests": manifests}
    table = table.replace_schema_metadata({**table.schema.metadata, _KEY: seal(rest).encode()})
    with output_errors(f"{file}: cannot be written"):
        store_of(file.parent).make_folder()
        write_whole(file, partial(write_table, table), kept=True)
    return len(shard.state)


def unpack(file: Path, folder: Location, shards: int | None = None) -> int:
    """Write the state table that ``file`` contains into ``folder``; replace a table that exists there.

    Args:
        file: a file that `pack` wrote.
        folder: folder of the table; if it is called ``state``, it belongs to a job's output folder.
        shards: number of shards to write; by default the number of the exported table.

    Returns:
        Number of series.

    Raises:
        DataError: the file holds no table.
        ModelError: this version of Statecast cannot read the format of the file.
        OutputError: a job is writing the table in ``folder``, or the table cannot be written.
    """
    try:
        with file.open("rb") as opened:
            check_checksum(opened)
            table = pq.read_table(opened)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(unreadable(file, error, "put back a copy of the file")) from error
    if _KEY not in (table.schema.metadata or {}):
        raise DataError(f"{file}: is not an exported state table: create one with statecast state export")
    try:
        rest = _TableMetadata.model_validate_json(
            json.dumps(unseal(table.schema.metadata[_KEY])), strict=True
        )
        shard = snapshot.from_arrow(table)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    except ValueError as error:
        raise DataError(
            f"{file}: not a state table of this version of Statecast: {str(error).splitlines()[0]}"
        ) from None
    resharded = reshard((shard,), rest.shards if shards is None else shards)
    with _locked_if_of_job(folder, is_new=True), tempfile.TemporaryDirectory() as folder_of_manifests:
        for name, text in rest.manifests.items():
            (Path(folder_of_manifests) / Path(name).name).write_text(text)
        state_table.write(folder, resharded, also=Path(folder_of_manifests))
    return len(shard.state)


def _manifests_in(folder: Location) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*") if path.suffix in _MANIFESTS}


@contextmanager
def _locked_if_of_job(folder: Location, *, is_new: bool = False) -> Iterator[None]:
    """Lock a state table's output folder in a ``with`` block, so that no job writes the table meanwhile.

    A folder called ``state`` belongs to the output folder above it. A table elsewhere needs no lock. Unless
    ``is_new``, an output folder without a lock file or a lease is not locked, because no job runs there.
    """
    output = folder.absolute().parent
    if folder.name == state_table.FOLDER and (is_new or any(output.glob(markers.ANY_LOCK))):
        with store_of(output).locked():
            yield
    else:
        yield
