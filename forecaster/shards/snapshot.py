"""Convert a shard to one Arrow table and back, for snapshot files and for the state of a Beam engine.

The table has one row per series: its state (`forecaster.state.State.to_arrow`), and in ``pending`` a list of
its rows whose windows are open. The state of a shadow is in columns with the prefix ``shadow:``. The other
fields of the shard are JSON in the table's metadata, under ``statecast.shard``. A checksum covers the
metadata.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from forecaster.shards.counts import Counts
from forecaster.shards.shard import PENDING, Shard, optional_pending_columns, slots_of
from forecaster.state import State
from forecaster.time.aggregation import PARTITION
from forecaster.time.frequency import Frequency
from schemas.errors import ModelError

_KEY: Final = b"statecast.shard"
_LAYOUT: Final = b"statecast.state.layout"
_CHECKSUM: Final = b"statecast.crc32"
_PENDING: Final = "pending"
_SHADOW: Final = "shadow:"
"""Prefix of the columns and the metadata of the shadow's state."""


class _Counts(BaseModel):
    """The counts of a snapshot. A count that an earlier version did not write is 0."""

    model_config = ConfigDict(extra="allow", strict=True)
    quarantined: dict[str, NonNegativeInt] = {}

    def counts(self) -> Counts:
        """Return the counts as `Counts`.

        Raises:
            ValueError: a count is unknown or not a number of rows.
        """
        others = self.model_extra or {}
        for name, value in others.items():
            if name not in Counts.__dataclass_fields__:
                raise ValueError(f"counts.{name} is unknown to this version")
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"counts.{name} is {value!r}, not a number of rows")
        return Counts(quarantined=self.quarantined, **others)


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


def to_arrow(shard: Shard) -> pa.Table:
    """Return the shard as a table, without its early batches.

    The source reads those batches again after a restart.
    """
    table = shard.state.to_arrow()
    rows = shard.pending.drop("window").sort("slot", maintain_order=True)
    slots = rows["slot"].to_numpy()
    offsets = np.searchsorted(slots, np.arange(len(shard.state) + 1)).astype(np.int32)
    inner = cast("pa.Table", rows.drop("slot").to_arrow()).to_struct_array()
    struct = pa.concat_arrays(inner.chunks) if inner.num_chunks else pa.array([], inner.type)
    table = table.append_column(_PENDING, pa.ListArray.from_arrays(pa.array(offsets), struct))
    rest = {
        "number": shard.number,
        "of": shard.of,
        "offsets": dict(shard.offsets),
        "watermarks_us": dict(shard.watermarks),
        "closed_through": shard.closed_through,
        "counts": asdict(shard.counts),
        "keyed": shard.keyed,
    }
    metadata = {**table.schema.metadata, _KEY: json.dumps(rest).encode()}
    if shard.shadow is not None:
        shadow = shard.shadow.to_arrow()
        for name in shadow.column_names:
            table = table.append_column(f"{_SHADOW}{name}", shadow[name])
        metadata |= {_SHADOW.encode() + key: value for key, value in shadow.schema.metadata.items()}
    return table.replace_schema_metadata({**metadata, _CHECKSUM: _checksum(metadata)})


def _checksum(metadata: Mapping[bytes, bytes]) -> bytes:
    """Return the checksum of a table's metadata."""
    return f"{zlib.crc32(metadata[_KEY], zlib.crc32(metadata[_LAYOUT])):08x}".encode()


def from_arrow(table: pa.Table) -> Shard:
    """Return the shard of a table that `to_arrow` made.

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
    """Return the error message for a snapshot that this version does not read."""
    return f"not a snapshot that this version reads ({why}): read it with the version that wrote it"


def _shard(table: pa.Table, rest: _ShardFields) -> Shard:
    state = State.from_arrow(table.drop_columns([_PENDING]))
    shadow = _shadow(table)
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
        shadow=shadow,
    )


def _shadow(table: pa.Table) -> State | None:
    """Return the state of the shadow in a table; None if the table holds no shadow."""
    names = [name for name in table.column_names if name.startswith(_SHADOW)]
    if not names:
        return None
    prefix = _SHADOW.encode()
    metadata = {k.removeprefix(prefix): v for k, v in table.schema.metadata.items() if k.startswith(prefix)}
    own = table.select(names).rename_columns([name.removeprefix(_SHADOW) for name in names])
    return State.from_arrow(own.replace_schema_metadata(metadata))


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
    """Return the pending rows from the column of lists, one list per slot."""
    lists = column.combine_chunks()
    lists = pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists
    slot = pl.Series("slot", lists.value_parent_indices().to_numpy(), dtype=pl.Int32)
    rows = cast("pl.DataFrame", pl.from_arrow(pa.table(dict(zip(*_fields(lists.flatten()), strict=True)))))
    rows = rows.with_columns(slot, window=freq.window(pl.col("timestamp")))
    # Rows of an earlier version have no offsets: give them negative ones, which are before all later offsets.
    if "offset" not in rows.columns:
        rows = rows.with_columns(offset=pl.int_range(-len(rows), 0, dtype=pl.Int64))
    # Rows of an older snapshot get the partition "", because it sorts before every name.
    if PARTITION not in rows.columns:
        rows = rows.with_columns(pl.lit("").alias(PARTITION))
    return rows.select(*PENDING, *optional_pending_columns(rows.columns)).sort("window", maintain_order=True)


def _fields(struct: pa.StructArray) -> tuple[list[str], list[pa.Array]]:
    """Return the names and the arrays of a struct array."""
    return [struct.type[i].name for i in range(struct.type.num_fields)], struct.flatten()
