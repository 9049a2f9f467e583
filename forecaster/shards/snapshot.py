"""Convert a shard to one Arrow table and back, for snapshot files and for the state of a Beam engine.

The table has one row per series: its state (`forecaster.state.State.to_arrow`), and in ``pending`` a list of
its rows whose windows are open. The state of a shadow is in columns with the prefix ``shadow:``.

The history of a shard that repairs late rows is in further columns: the copies of the state with the prefixes
``copy0:`` and ``copy1:`` (``copy0-shadow:`` for the shadow), and lists of the rows of closed windows in
``closed`` and of the records of late rows in ``late``.

The other fields of the shard are JSON in the table's metadata, under ``statecast.shard``. A checksum covers
this JSON and the layout of the state, but not the layouts of the shadow and the copies.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from forecaster.shards.counts import Counts
from forecaster.shards.history import LATE_ROWS, Copy, History
from forecaster.shards.score_sums import ScoreSums
from forecaster.shards.shard import PENDING, Shard, optional_pending_columns, slots_of
from forecaster.state import State
from forecaster.time.duplicates import PARTITION
from forecaster.time.frequency import Frequency
from schemas.errors import ModelError

_KEY: Final = b"statecast.shard"
_LAYOUT: Final = b"statecast.state.layout"
_CHECKSUM: Final = b"statecast.crc32"
# Columns of a snapshot's table. In `_PENDING` and `_CLOSED`, a cell is the list of one series' rows; in
# `_LATE`, a cell is the list of the records of one series' late rows.
_PENDING, _CLOSED, _LATE = "pending", "closed", "late"
_SHADOW: Final = "shadow:"
"""Prefix of the columns and the metadata of the shadow's state."""


class _Counts(BaseModel):
    """The counts of a snapshot; a count that an earlier version of Statecast did not write is 0."""

    model_config = ConfigDict(extra="allow", strict=True)
    quarantined: dict[str, NonNegativeInt] = {}
    scores: dict[str, dict[int, ScoreSums]] = {}

    def counts(self) -> Counts:
        """Return the counts of the snapshot as the shard's `Counts`.

        Raises:
            ValueError: a count is unknown, or is not a whole number of 0 or more.
        """
        others = self.model_extra or {}
        for name, value in others.items():
            if name not in Counts.__dataclass_fields__:
                raise ValueError(f"counts.{name} is unknown to this version of Statecast")
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"counts.{name} is {value!r}, not a whole number of 0 or more")
        return Counts(quarantined=self.quarantined, scores=self.scores, **others)


class _ShardFields(BaseModel):
    """The fields of a shard that are stored as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    number: NonNegativeInt
    of: NonNegativeInt
    offsets: dict[str, NonNegativeInt]
    watermarks_us: dict[str, int | None]
    closed_through: int | None
    counts: _Counts
    keyed: bool = False
    copies_through: list[int] | None = None


def to_arrow(shard: Shard) -> pa.Table:
    """Return the shard as a table, without `Shard.early`, the batches that it cannot apply yet.

    The source reads these batches again after a restart.
    """
    table = shard.state.to_arrow()
    columns = _columns(table)
    columns[_PENDING] = _lists(shard.pending.drop("window"), len(shard.state))
    rest: dict[str, Any] = {
        "number": shard.number,
        "of": shard.of,
        "offsets": dict(shard.offsets),
        "watermarks_us": dict(shard.watermarks),
        "closed_through": shard.closed_through,
        "counts": shard.counts.stored(),
        "keyed": shard.keyed,
    }
    states = {} if shard.shadow is None else {_SHADOW: shard.shadow}
    if shard.history is not None:
        history, series = shard.history, len(shard.state)
        rest["copies_through"] = [copy.through for copy in history.copies]
        closed = pl.concat([shard.pending.clear(), *history.rows], how="diagonal").drop("window")
        columns[_CLOSED] = _lists(closed, series)
        columns[_LATE] = _lists(history.late, series)
        for number, copy in enumerate(history.copies):
            states[f"copy{number}:"] = copy.state
            if copy.shadow is not None:
                states[f"copy{number}-{_SHADOW}"] = copy.shadow
    metadata = {**table.schema.metadata, _KEY: json.dumps(rest).encode()}
    for prefix, state in states.items():
        own = state.to_arrow()
        columns |= {f"{prefix}{name}": column for name, column in _columns(own).items()}
        metadata |= {prefix.encode() + key: value for key, value in own.schema.metadata.items()}
    return pa.table(columns, metadata={**metadata, _CHECKSUM: _checksum(metadata)})


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _lists(rows: pl.DataFrame, series: int) -> pa.ListArray:
    """Return a column with one list for each series: all ``rows`` with the series' slot, without ``slot``."""
    rows = rows.sort("slot", maintain_order=True)
    offsets = np.searchsorted(rows["slot"].to_numpy(), np.arange(series + 1)).astype(np.int32)
    inner = cast("pa.Table", rows.drop("slot").to_arrow()).to_struct_array()
    struct = pa.concat_arrays(inner.chunks) if inner.num_chunks else pa.array([], inner.type)
    return pa.ListArray.from_arrays(pa.array(offsets), struct)


def _checksum(metadata: Mapping[bytes, bytes]) -> bytes:
    """Return the checksum of a shard's metadata: its fields, and the layout of its state."""
    return f"{zlib.crc32(metadata[_KEY], zlib.crc32(metadata[_LAYOUT])):08x}".encode()


def from_arrow(table: pa.Table) -> Shard:
    """Return the shard that `to_arrow` wrote into a table.

    Raises:
        ModelError: the table is not a shard, or has a format that this version does not read.
    """
    metadata = table.schema.metadata or {}
    if not metadata.keys() >= {_KEY, _LAYOUT}:
        raise ModelError("this is not a shard of a state table")
    if metadata.get(_CHECKSUM, _checksum(metadata)) != _checksum(metadata):
        raise ModelError("the file is damaged: the checksum of its metadata does not match")
    try:
        return _shard(table, _ShardFields.model_validate_json(metadata[_KEY]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelError(_unreadable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from None
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as error:
        raise ModelError(_unreadable(" ".join(str(error).split())[:200])) from error


def _unreadable(why: str) -> str:
    """Return the error message for a snapshot that this version of Statecast cannot read."""
    return f"not a snapshot that this version reads ({why}): read it with the version that wrote it"


def _shard(table: pa.Table, rest: _ShardFields) -> Shard:
    state = State.from_arrow(table.drop_columns([_PENDING]))
    return Shard(
        number=rest.number,
        of=rest.of,
        state=state,
        slots=slots_of(state),
        pending=_pending(table[_PENDING], state.freq),
        offsets=rest.offsets,
        watermarks=rest.watermarks_us,
        closed_through=rest.closed_through,
        counts=rest.counts.counts(),
        keyed=rest.keyed,
        shadow=_state_of(table, _SHADOW),
        history=None if rest.copies_through is None else _history(table, rest.copies_through, state.freq),
    )


def _state_of(table: pa.Table, prefix: str) -> State | None:
    """Return the state whose columns begin with ``prefix``; None if the table has no such column."""
    names = [name for name in table.column_names if name.startswith(prefix)]
    if not names:
        return None
    key = prefix.encode()
    metadata = {k.removeprefix(key): v for k, v in table.schema.metadata.items() if k.startswith(key)}
    own = table.select(names).rename_columns([name.removeprefix(prefix) for name in names])
    return State.from_arrow(own.replace_schema_metadata(metadata))


def _history(table: pa.Table, copies_through: list[int], freq: Frequency) -> History:
    """Return the history that ``table`` stores for a shard.

    ``copies_through`` has, for each copy of the state, the last window that the copy was stepped through.
    """
    copies = []
    for number, through in enumerate(copies_through):
        state = _state_of(table, f"copy{number}:")
        if state is None:
            raise ValueError(f"the history lacks copy {number} of the state")
        copies.append(Copy(through, state, _state_of(table, f"copy{number}-{_SHADOW}")))
    closed, late = _pending(table[_CLOSED], freq), _rows_of(table[_LATE])
    late = late.select(pl.col(name).cast(dtype) for name, dtype in LATE_ROWS.items())
    return History(tuple(copies), (closed,) if len(closed) else (), late)


def to_bytes(shard: Shard) -> bytes:
    """Return the shard as an Arrow IPC stream."""
    table, sink = to_arrow(shard), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return cast("bytes", sink.getvalue().to_pybytes())


def from_bytes(data: bytes) -> Shard:
    """Return the shard that `to_bytes` wrote.

    Raises:
        ModelError: the bytes are not a shard.
    """
    try:
        return from_arrow(pa.ipc.open_stream(data).read_all())
    except pa.ArrowInvalid as error:
        raise ModelError(f"this is not a shard: {error}") from error


def _pending(column: pa.ChunkedArray, freq: Frequency) -> pl.DataFrame:
    """Return the rows of a snapshot column that holds a list of rows for each slot, sorted by window.

    They are pending rows, or rows of closed windows that are kept for repairs.
    """
    rows = _rows_of(column).with_columns(window=freq.window(pl.col("timestamp")))
    # Early releases stored no offsets: use negative offsets, which are before all others.
    if "offset" not in rows.columns:
        rows = rows.with_columns(offset=pl.int_range(-len(rows), 0, dtype=pl.Int64))
    # Early releases stored no partition of a row: use "", which sorts before every partition name.
    if PARTITION not in rows.columns:
        rows = rows.with_columns(pl.lit("").alias(PARTITION))
    return rows.select(*PENDING, *optional_pending_columns(rows.columns)).sort("window", maintain_order=True)


def _rows_of(column: pa.ChunkedArray) -> pl.DataFrame:
    """Return all rows of a column that has a list of rows for each slot; add the column ``slot``."""
    lists = column.combine_chunks()
    lists = pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists
    slot = pl.Series("slot", lists.value_parent_indices().to_numpy(), dtype=pl.Int32)
    rows = cast("pl.DataFrame", pl.from_arrow(pa.table(dict(zip(*_fields(lists.flatten()), strict=True)))))
    return rows.with_columns(slot)


def _fields(struct: pa.StructArray) -> tuple[list[str], list[pa.Array]]:
    """Return the names and the arrays of the fields of a struct array."""
    return [struct.type[i].name for i in range(struct.type.num_fields)], struct.flatten()
