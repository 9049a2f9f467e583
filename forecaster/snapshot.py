"""A shard as one Arrow table, and back: what a snapshot file and an engine's state hold.

One row a series: its state (`forecaster.state.State.to_arrow`), and in ``pending`` a list of its rows whose
windows are still open. The rest of the shard is JSON in the table's metadata, under ``statecast.shard``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from forecaster.counts import Counts
from forecaster.frequency import Frequency
from forecaster.shard import PENDING, Shard, slots_of
from forecaster.state import State
from schemas.errors import ModelError
from schemas.observations import more_of

_KEY = b"statecast.shard"
_PENDING = "pending"


def to_arrow(shard: Shard) -> pa.Table:
    """The shard as a table. Batches that came early are left out: what is read again brings them."""
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
    return table.replace_schema_metadata({**table.schema.metadata, _KEY: json.dumps(rest).encode()})


def from_arrow(table: pa.Table) -> Shard:
    """The inverse of `to_arrow`.

    Raises:
        ModelError: the table is no shard, or of a format that this version does not read.
    """
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        raise ModelError("this is no shard of a state table")
    rest: dict[str, Any] = json.loads(metadata[_KEY])
    state = State.from_arrow(table.drop_columns([_PENDING]))
    return Shard(
        number=rest["number"],
        of=rest["of"],
        state=state,
        slots=slots_of(state),
        pending=_pending(table[_PENDING], state.freq),
        offsets=rest["offsets"],
        watermarks=rest["watermarks_us"],
        closed_through=rest["closed_through"],
        counts=Counts(**rest["counts"]),
        keyed=rest.get("keyed", False),
    )


def to_bytes(shard: Shard) -> bytes:
    """The shard as an Arrow IPC stream."""
    table, sink = to_arrow(shard), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return cast("bytes", sink.getvalue().to_pybytes())


def from_bytes(data: bytes) -> Shard:
    """The inverse of `to_bytes`.

    Raises:
        ModelError: this is no shard.
    """
    try:
        return from_arrow(pa.ipc.open_stream(data).read_all())
    except pa.ArrowInvalid as error:
        raise ModelError(f"this is no shard: {error}") from error


def _pending(column: pa.ChunkedArray, freq: Frequency) -> pl.DataFrame:
    lists = column.combine_chunks()
    lists = pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists
    slot = pl.Series("slot", lists.value_parent_indices().to_numpy(), dtype=pl.Int32)
    rows = cast("pl.DataFrame", pl.from_arrow(pa.table(dict(zip(*_fields(lists.flatten()), strict=True)))))
    rows = rows.with_columns(slot, window=freq.window(pl.col("timestamp")))
    return rows.select(*PENDING, *more_of(rows.columns)).sort("window", maintain_order=True)


def _fields(struct: pa.StructArray) -> tuple[list[str], list[pa.Array]]:
    return [struct.type[i].name for i in range(struct.type.num_fields)], struct.flatten()
