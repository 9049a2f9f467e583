"""Define coders for Beam, which encode the elements of a pipeline (frames of rows) as bytes.

An element is a frame, or a small dataclass with frames. Frames are encoded as Arrow IPC, and other fields as
JSON, so nothing is pickled.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import polars as pl
from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from forecaster.shards.batch import Batch

_LENGTH = struct.Struct("<q")


@dataclass(frozen=True)
class FleetRows:
    """An element of a `ForecastFleet` pipeline: rows of one shard, and the ends of windows.

    Attributes:
        rows: observation frame with ``offset``.
        ends: the ends of all windows with a row in any shard's part of the frame, in microseconds, ascending.
    """

    rows: pl.DataFrame
    ends: tuple[int, ...]


class ElementCoder(Coder):
    """A Beam coder of one type: a Polars frame, or a dataclass with fields of frames, bytes or JSON values.

    Args:
        kind: the type of the elements.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def encode(self, value: Any) -> bytes:
        """Encode an element as bytes.

        A frame is encoded alone. A dataclass is encoded as the length of a JSON header, the header, and the
        frames and bytes of its fields.
        """
        if self.kind is pl.DataFrame:
            return frame_bytes(value)
        header: dict[str, Any] = {}
        buffers: list[bytes] = []
        for name, item in vars(value).items():
            if isinstance(item, (pl.DataFrame, bytes)):
                data = item if isinstance(item, bytes) else frame_bytes(item)
                header[name] = {"bytes": len(data)}
                buffers.append(data)
            else:
                header[name] = item
        head = json.dumps(header).encode()
        return b"".join([_LENGTH.pack(len(head)), head, *buffers])

    def decode(self, encoded: bytes) -> Any:
        """Decode an element from ``encoded``, the result of `encode`."""
        if self.kind is pl.DataFrame:
            return frame_of(encoded)
        at = _LENGTH.size + _LENGTH.unpack_from(encoded)[0]
        header = json.loads(encoded[_LENGTH.size : at])
        types = {field.name: field.type for field in fields(self.kind)}
        for name, item in header.items():
            if isinstance(item, dict):
                data, at = encoded[at : at + item["bytes"]], at + item["bytes"]
                header[name] = data if types[name] == "bytes" else frame_of(data)
            elif isinstance(item, list):
                header[name] = tuple(item)
        return self.kind(**header)

    def estimate_size(self, value: Any) -> int:
        """Return the size in memory of an element's frames and byte strings, in bytes.

        Beam calls this method for most elements. Without this override, Beam would encode each element to
        measure it.
        """
        parts = [value] if self.kind is pl.DataFrame else vars(value).values()
        frames = sum(part.estimated_size() for part in parts if isinstance(part, pl.DataFrame))
        return int(frames) + sum(len(part) for part in parts if isinstance(part, bytes))

    def is_deterministic(self) -> bool:
        """Return False; Beam requires True only for keys, and elements are never keys."""
        return False

    @staticmethod
    def from_type_hint(typehint: Any, unused_registry: Any) -> Any:
        """Return a coder for elements of the given type; Beam's coder registry calls this method."""
        return ElementCoder(typehint)

    def to_type_hint(self) -> Any:
        """Return the type of the elements that this coder encodes."""
        return self.kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ElementCoder) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash((ElementCoder, self.kind))


def frame_bytes(frame: pl.DataFrame) -> bytes:
    """Encode a frame as the bytes of an Arrow IPC stream."""
    if not len(frame):
        return _empty_bytes(tuple(frame.schema.items()))
    return _ipc(frame)


def frame_of(data: bytes) -> pl.DataFrame:
    """Decode a frame from ``data``, the result of `frame_bytes`."""
    if (empty := _empties.get(data)) is not None:
        return empty
    frame = pl.read_ipc_stream(io.BytesIO(data))
    if not len(frame) and len(_empties) < _MOST_EMPTIES:
        _empties[data] = frame
    return frame


# Cache empty frames and their bytes, because most shards get no rows from most polls, and encoding only the
# schema of a frame takes as long as encoding thousands of rows.
_MOST_EMPTIES = 64
_empties: dict[bytes, pl.DataFrame] = {}


@lru_cache(maxsize=_MOST_EMPTIES)
def _empty_bytes(schema: tuple[tuple[str, pl.DataType], ...]) -> bytes:
    return _ipc(pl.DataFrame(schema=dict(schema)))


def _ipc(frame: pl.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.write_ipc_stream(sink)
    return sink.getvalue()


for _kind in (Batch, FleetRows, pl.DataFrame):
    registry.register_coder(_kind, ElementCoder)

Sharded = tuple[int, Batch]
"""The number of a shard, and its part of a batch."""

ShardedRows = tuple[int, FleetRows]
"""The number of a shard, and rows of its series."""
