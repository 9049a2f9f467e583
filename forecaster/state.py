"""The state of a fleet: everything that a forecast depends on, for every series, as arrays.

Letters: S series, L layers, H hidden width, R ring. In memory the axes lie as the network wants them; as a
table (Arrow, Parquet, a shard's Beam state) there is one row a series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from forecaster.windows import MICROSECONDS
from schemas.errors import ModelError

FORMAT_VERSION = "1"
_FORMAT_KEY = b"statecast.state.format"
_SHAPE_KEY = b"statecast.state.shape"

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """The state of ``S`` series under the weights ``model_version``. Never changed in place.

    Attributes:
        model_version: version of the only weights this state may be fed to.
        freq_s: length of a window in seconds.
        series_ids: ``S`` distinct ids.
        clock: ``[S]`` int64, index of each series' last closed window.
        observed: ``[S]`` int64, windows with a value so far.
        mean, variance: ``[S]`` float64, exponentially weighted moments of the values.
        last: ``[S]`` float64, last observed value.
        age: ``[S]`` int64, windows closed since then.
        hidden: ``[L, S, H]`` float32.
        cell: ``[L, S, H]`` float32; ``[0, S, H]`` for cells that have none.
        ring: ``[R, S]`` float64, values of the last ``R`` windows, oldest first; NaN where missing.
    """

    model_version: str
    freq_s: int
    series_ids: tuple[str, ...]
    clock: Ints
    observed: Ints
    mean: Floats
    variance: Floats
    last: Floats
    age: Ints
    hidden: Floats32
    cell: Floats32
    ring: Floats

    def __len__(self) -> int:
        return len(self.series_ids)

    @property
    def bytes_per_series(self) -> float:
        """Bytes of one series' arrays, its id not counted."""
        arrays = (v for v in vars(self).values() if isinstance(v, np.ndarray))
        return sum(a.nbytes for a in arrays) / max(len(self), 1)

    def take(self, index: Ints) -> State:
        """The series at ``index`` ``[n]``, in that order."""
        ids = tuple(self.series_ids[i] for i in index)
        arrays = {name: getattr(self, name)[_at(name, index)] for name in _AXIS}
        return State(self.model_version, self.freq_s, ids, **arrays)

    def replace(self, index: Ints, part: State) -> State:
        """This state with the series at ``index`` ``[n]`` taken from ``part`` (of ``n`` series)."""
        arrays = {name: getattr(self, name).copy() for name in _AXIS}
        for name, array in arrays.items():
            array[_at(name, index)] = getattr(part, name)
        return State(self.model_version, self.freq_s, self.series_ids, **arrays)

    @staticmethod
    def join(parts: list[State]) -> State:
        """States of disjoint series under the same weights, as one.

        Raises:
            ModelError: the states are of several versions.
            ValueError: there is no part.
        """
        if len({part.model_version for part in parts}) > 1:
            versions = ", ".join(sorted({part.model_version for part in parts}))
            raise ModelError(f"states of several model versions cannot be one: {versions}")
        ids = tuple(name for part in parts for name in part.series_ids)
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=axis)
            for name, axis in _AXIS.items()
        }
        return State(parts[0].model_version, parts[0].freq_s, ids, **arrays)

    def to_arrow(self) -> pa.Table:
        """The state table: one row a series (see ``schemas.states``), format and shapes in its metadata."""
        layers, series, width = self.hidden.shape
        columns: dict[str, Any] = {
            "series_id": pa.array(self.series_ids, pa.large_string()),
            "model_version": pa.array([self.model_version] * series, pa.large_string()),
            "clock": pa.array((self.clock + 1) * self.freq_s * MICROSECONDS, pa.timestamp("us", "UTC")),
            "observed": pa.array(self.observed),
            "mean": pa.array(self.mean),
            "variance": pa.array(self.variance),
            "last": pa.array(self.last),
            "age": pa.array(self.age),
            "hidden": _lists(self.hidden.swapaxes(0, 1).reshape(series, layers * width)),
            "cell": _lists(self.cell.swapaxes(0, 1).reshape(series, len(self.cell) * width)),
            "ring": _lists(self.ring.T),
        }
        shape = f"{self.freq_s},{layers},{width},{len(self.ring)},{len(self.cell)},{self.model_version}"
        metadata = {_FORMAT_KEY: FORMAT_VERSION.encode(), _SHAPE_KEY: shape.encode()}
        return pa.table(columns).replace_schema_metadata(metadata)

    @staticmethod
    def from_arrow(table: pa.Table) -> State:
        """The inverse of `to_arrow`.

        Raises:
            ModelError: the table is no state table, or of a format this version does not read.
        """
        metadata = table.schema.metadata or {}
        if metadata.get(_FORMAT_KEY) != FORMAT_VERSION.encode():
            found = metadata.get(_FORMAT_KEY, b"none").decode()
            raise ModelError(
                f"state format {found} is not readable here (this version reads {FORMAT_VERSION})"
            )
        numbers, version = _split_shape(metadata[_SHAPE_KEY].decode())
        freq_s, layers, width, ring, cells = numbers
        series = table.num_rows

        def column(name: str) -> NDArray[Any]:
            return cast("NDArray[Any]", table[name].to_numpy())

        def lists(name: str) -> NDArray[Any]:
            chunks = [chunk.flatten().to_numpy() for chunk in table[name].chunks]
            return np.concatenate(chunks) if chunks else np.empty(0)

        clock = table["clock"].cast(pa.int64()).to_numpy() // (freq_s * MICROSECONDS) - 1
        hidden = lists("hidden").reshape(series, layers, width).swapaxes(0, 1)
        cell = lists("cell").reshape(series, cells, width).swapaxes(0, 1)
        return State(
            version,
            freq_s,
            tuple(table["series_id"].to_pylist()),
            clock,
            column("observed"),
            column("mean"),
            column("variance"),
            column("last"),
            column("age"),
            np.ascontiguousarray(hidden, np.float32),
            np.ascontiguousarray(cell, np.float32),
            np.ascontiguousarray(lists("ring").reshape(series, ring).T, np.float64),
        )

    def to_bytes(self) -> bytes:
        """Arrow IPC stream of the state table."""
        table = self.to_arrow()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return cast("bytes", sink.getvalue().to_pybytes())

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """The inverse of `to_bytes`.

        Raises:
            ModelError: not such a stream, or of another format.
        """
        try:
            table = pa.ipc.open_stream(data).read_all()
        except pa.ArrowInvalid as error:
            raise ModelError(f"this is no state: {error}") from error
        return State.from_arrow(table)

    def frame(self) -> pl.DataFrame:
        """The state table as a Polars frame, for people to look at."""
        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))


_AXIS = {  # which axis of each array counts the series
    "clock": 0,
    "observed": 0,
    "mean": 0,
    "variance": 0,
    "last": 0,
    "age": 0,
    "hidden": 1,
    "cell": 1,
    "ring": 1,
}


def _at(name: str, index: Ints) -> Any:
    return index if _AXIS[name] == 0 else (slice(None), index)


def _lists(rows: NDArray[Any]) -> pa.ListArray:
    """``[S, n]`` as one list a series."""
    series, width = rows.shape
    offsets = np.arange(series + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(rows).reshape(-1)))


def _split_shape(text: str) -> tuple[list[int], str]:
    *numbers, version = text.split(",", 5)
    return [int(n) for n in numbers], version
