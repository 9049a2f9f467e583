"""The state table: the handover, the warm start and what a stopped stream goes on from.

A folder, readable with any Parquet reader::

    state/series/shard-003.parquet     one row a series (schemas.states)
    state/pending/shard-003.parquet    rows whose windows are still open
    state/position.json                what the source had read

A job writes its table beside the old one and puts it in place when it has ended well.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from forecaster.shard import shard_of
from forecaster.state import State
from pipelines.coders import ShardState
from schemas import observations
from schemas.errors import DataError, ModelError, OutputError

_SERIES, _PENDING, _POSITION = "series", "pending", "position.json"


@dataclass(frozen=True)
class StateTable:
    """A state table as read back.

    Attributes:
        state: all series; None where the table holds none.
        pending: observation frame of the rows that still wait for their windows to close.
        closed_through: index of the last closed window; None where none has.
        position: what the source had read, in the source's own words; "" where it did not say.
    """

    state: State | None
    pending: pl.DataFrame
    closed_through: int | None
    position: str

    def shard(self, number: int, shards: int) -> tuple[State | None, pl.DataFrame]:
        """The part of one shard of ``shards``, whatever their number was when the table was written."""
        state = self.state
        if state is not None:
            index = np.flatnonzero([shard_of(name, shards) == number for name in state.series_ids])
            state = state.take(index)
        ids = [name for name in self.pending["series_id"].unique() if shard_of(name, shards) == number]
        return state, self.pending.filter(pl.col("series_id").is_in(ids))


def write_part(folder: Path, part: ShardState) -> None:
    """Writes one shard of the table into ``folder``."""
    name = f"shard-{part.shard:04d}.parquet"
    closed = "" if part.closed_through is None else str(part.closed_through)
    table = State.from_bytes(part.state).to_arrow()
    table = table.replace_schema_metadata(
        {**table.schema.metadata, b"statecast.closed_through": closed.encode()}
    )
    for kind in (_SERIES, _PENDING):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / _SERIES / name, use_dictionary=["model_version"])
    part.pending.write_parquet(folder / _PENDING / name)


def write_position(folder: Path, position: str) -> None:
    """Writes what the source had read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _POSITION).write_text(position + "\n")


def beside(folder: Path) -> Path:
    """Where a job writes its table until it has ended well."""
    return folder.with_name(f".{folder.name}.new")


def put_in_place(folder: Path) -> None:
    """Replaces the table in ``folder`` by the one written `beside` it."""
    old = folder.with_name(f".{folder.name}.old")
    try:
        beside(folder).stat()  # before the old table is moved away for one that is not there
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside(folder), folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: the state table cannot be put in place: {error.strerror}") from error


def read(folder: Path) -> StateTable:
    """The state table in ``folder``; a worker's many calls read it once.

    Raises:
        DataError: there is none, or a file of it cannot be read.
        ModelError: it is of a format that this version does not read.
    """
    files = sorted((folder / _SERIES).glob("*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no state table: name the `state` folder of a backfill or a stream")
    return _read(folder, tuple((file, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=2)
def _read(folder: Path, stamped: tuple[tuple[Path, int], ...]) -> StateTable:
    states: list[State] = []
    closed: list[int] = []
    for file, _ in stamped:
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
        if text := (table.schema.metadata or {}).get(b"statecast.closed_through", b""):
            closed.append(int(text))
        try:
            states.append(State.from_arrow(table))
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from error
    waiting = [pl.read_parquet(file) for file in sorted((folder / _PENDING).glob("*.parquet"))]
    position = folder / _POSITION
    return StateTable(
        state=State.join(states) if states else None,
        pending=pl.concat([observations.empty(), *(w for w in waiting if len(w))], how="diagonal"),
        closed_through=max(closed, default=None),
        position=position.read_text().strip() if position.exists() else "",
    )
