"""The state of a fleet: the arrays, one row for each series, that a model carries from window to window.

Series is axis 0 of every array. The components (``forecaster.components``) define what the arrays mean. This
module stores, selects and joins them, and writes them as a table: one row for each series, one column for
each field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Field
from forecaster.components.columns import array_of_column, column_of
from forecaster.components.formats import FORMAT_VERSIONS, MIGRATIONS
from forecaster.time.frequency import Frequency
from schemas.errors import ModelError

__all__ = ["FORMAT_VERSION", "Arrays", "Floats", "Ints", "State", "live"]

FORMAT_VERSION = "2"
_FORMAT_KEY = b"statecast.state.format"
_LAYOUT_KEY = b"statecast.state.layout"
_GROWTH = 4  # an array that grows gets room for a quarter more series


@dataclass(frozen=True)
class State:
    """The state of S series, made by the model version ``model_version``.

    Only `put` and ``forecaster.stepping.advance.advance_in_place`` write into its arrays.

    Attributes:
        model_version: the weights that made this state, the only ones that may step it.
        freq: length of a window.
        series_ids: ``S`` distinct ids, in the order of the slots.
        clock: ``[S]`` int64, index of each series' last closed window.
        silent: ``[S]`` int64, windows closed since the last row of each series; 0 before its first.
        parts: arrays ``[S, ...]`` by component and field, such as ``parts["moments"]["mean"]``.
        room: the larger arrays ``[S or more, ...]`` in which `grown` keeps arrays with spare room.
    """

    model_version: str
    freq: Frequency
    series_ids: tuple[str, ...]
    clock: Ints
    silent: Ints
    parts: dict[str, Arrays]
    room: dict[str, Arrays] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.series_ids)

    @property
    def bytes_by_component(self) -> dict[str, float]:
        """Bytes per series in the arrays of each component."""
        series = max(len(self), 1)
        return {name: sum(a.nbytes for a in own.values()) / series for name, own in self.parts.items()}

    @property
    def bytes_per_series(self) -> float:
        """Bytes per series in all arrays of the state, without the bytes of the series id."""
        clocks = self.clock.nbytes + self.silent.nbytes
        return clocks / max(len(self), 1) + sum(self.bytes_by_component.values())

    def copy(self) -> State:
        """Return a copy that shares no memory with this state."""
        parts = {name: {f: a.copy(order="K") for f, a in own.items()} for name, own in self.parts.items()}
        return self._with(self.series_ids, self.clock.copy(), self.silent.copy(), parts)

    def take(self, index: Ints) -> State:
        """Return a copy of this state with only the series at the positions ``index``, in that order."""
        ids = tuple(self.series_ids[i] for i in index)
        return self._with(ids, self.clock[index], self.silent[index], taken(self.parts, index))

    def put(self, index: Ints, part: State) -> None:
        """Write the states in ``part`` into the slots ``index`` of this state; the series ids stay."""
        self.clock[index], self.silent[index] = part.clock, part.silent
        put(self.parts, index, part.parts)

    def grown(self, new: State) -> State:
        """Append the series of ``new``, a state of the same model version; return the larger state.

        An array with spare room stays in its memory, so series that begin one by one do not copy the fleet
        each time. An array without room moves to memory for a quarter more series. The new state shares
        memory with this one, which must not be used any more.
        """
        count, parts, room = len(self) + len(new), dict[str, Arrays](), dict[str, Arrays]()
        for name, own in self.parts.items():
            parts[name], room[name] = {}, {}
            for f, array in own.items():
                memory = self.room.get(name, {}).get(f)
                if memory is None or len(memory) < count or not _same_memory(array, memory[: len(array)]):
                    memory = _with_room(array, count + count // _GROWTH)
                memory[len(array) : count] = new.parts[name][f]
                parts[name][f], room[name][f] = memory[:count], memory
        clock, silent = (
            np.concatenate(both) for both in ((self.clock, new.clock), (self.silent, new.silent))
        )
        ids = self.series_ids + new.series_ids
        return State(self.model_version, self.freq, ids, clock, silent, parts, room)

    def part(self, series: slice) -> State:
        """Return the state of the series in a slice, as views of this state's arrays."""
        parts = {name: {f: a[series] for f, a in own.items()} for name, own in self.parts.items()}
        return self._with(self.series_ids[series], self.clock[series], self.silent[series], parts)

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """Join states of disjoint series, all made by the same model version, into one state.

        Raises:
            ModelError: the states are of several versions.
            ValueError: ``states`` is empty.
        """
        if not states:
            raise ValueError("there is no state to join")
        if len({state.model_version for state in states}) > 1:
            versions = ", ".join(sorted({state.model_version for state in states}))
            raise ModelError(f"states of several model versions cannot be joined: {versions}")
        first = states[0]
        parts = {
            name: {f: np.concatenate([state.parts[name][f] for state in states]) for f in own}
            for name, own in first.parts.items()
        }
        return first._with(
            tuple(name for state in states for name in state.series_ids),
            np.concatenate([state.clock for state in states]),
            np.concatenate([state.silent for state in states]),
            parts,
        )

    def _with(self, ids: tuple[str, ...], clock: Ints, silent: Ints, parts: dict[str, Arrays]) -> State:
        return State(self.model_version, self.freq, ids, clock, silent, parts)

    def to_arrow(self) -> pa.Table:
        """Return the state as an Arrow table with one row per series and one column per field.

        The metadata of the table holds the format versions, and the dtype and shape of each field.
        """
        series = len(self)
        columns: dict[str, Any] = {
            "series_id": pa.array(self.series_ids, pa.large_string()),
            "model_version": pa.repeat(pa.scalar(self.model_version, pa.large_string()), series),
            "clock": pa.array(self.freq.end_us(self.clock), pa.timestamp("us", "UTC")),
            "silent": pa.array(self.silent),
        }
        components: dict[str, Any] = {}
        for name, own in self.parts.items():
            columns |= {f"{name}.{f}": column_of(array) for f, array in own.items()}
            fields = {f: (a.dtype.name, a.shape[1:]) for f, a in own.items()}
            components[name] = {"format": FORMAT_VERSIONS[name], "fields": fields}
        layout = {
            "model_version": self.model_version,
            "freq_s": self.freq.seconds,
            "freq_months": self.freq.months,
            "freq_offset_s": self.freq.offset_s,
            "components": components,
        }
        metadata = {_FORMAT_KEY: FORMAT_VERSION, _LAYOUT_KEY: json.dumps(layout)}
        return pa.table(columns).replace_schema_metadata(metadata)

    @staticmethod
    def from_arrow(table: pa.Table) -> State:
        """Read the state from an Arrow table that `to_arrow` made; arrays of older formats are converted.

        Raises:
            ModelError: the table does not hold a state, or it or a component in it has a format that this
                version cannot read.
        """
        metadata = table.schema.metadata or {}
        found = metadata.get(_FORMAT_KEY, b"none").decode()
        if found != FORMAT_VERSION:
            raise ModelError(
                f"state format {found} is not readable here (this version reads {FORMAT_VERSION})"
            )
        layout = json.loads(metadata[_LAYOUT_KEY])
        for name, component in layout["components"].items():
            known = FORMAT_VERSIONS.get(name, "none")
            if component["format"] != known and (name, component["format"]) not in MIGRATIONS:
                raise ModelError(
                    f"this version cannot read format {component['format']} of the state's {name} "
                    f"(it reads {known}): start without the state, from the rows"
                )
        freq = Frequency(layout["freq_s"], layout.get("freq_months", 0), layout.get("freq_offset_s", 0))
        parts = {
            name: {
                f: array_of_column(table, f"{name}.{f}", Field(dtype, tuple(shape)))
                for f, (dtype, shape) in component["fields"].items()
            }
            for name, component in layout["components"].items()
        }
        for name, component in layout["components"].items():
            if migrate := MIGRATIONS.get((name, component["format"])):
                parts[name] = migrate(parts[name])
        return State(
            layout["model_version"],
            freq,
            tuple(table["series_id"].to_pylist()),
            freq.window_of(array_of_column(table, "clock", Field("int64"))) - 1,
            array_of_column(table, "silent", Field("int64")),
            parts,
        )

    def to_bytes(self) -> bytes:
        """Return the state as an Arrow IPC stream."""
        table = self.to_arrow()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return cast("bytes", sink.getvalue().to_pybytes())

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """Read the state from bytes that `to_bytes` returned.

        Raises:
            ModelError: the bytes are not such a stream, or have another format.
        """
        try:
            table = pa.ipc.open_stream(data).read_all()
        except pa.ArrowInvalid as error:
            raise ModelError(f"the bytes do not hold a state: {error}") from error
        return State.from_arrow(table)

    def frame(self) -> pl.DataFrame:
        """Return the state as a Polars frame, one row per series, for people to look at."""
        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))


def live(state: State) -> NDArray[np.bool_]:
    """Return for each series whether it is live: it has begun and has not retired since.

    A series retires after more than ``windows.max_gap`` windows without a value: its state is then reset to
    that before its first value.
    """
    return np.asarray(state.parts["moments"]["observed"] > 0)


def taken(parts: Mapping[str, Arrays], index: Ints) -> dict[str, Arrays]:
    """Return copies of all arrays in ``parts``, with only the series at ``index``."""
    return {name: {f: a[index] for f, a in own.items()} for name, own in parts.items()}


def put(parts: Mapping[str, Arrays], index: Ints | slice, new: Mapping[str, Arrays]) -> None:
    """Copy the arrays in ``new``, which hold only the series at ``index``, into the arrays in ``parts``."""
    for name, own in parts.items():
        for f, array in own.items():
            # Skip the copy if the new array is a view of ``array[index]``: the values are already in place.
            if not isinstance(index, slice) or not _same_memory(array[index], new[name][f]):
                array[index] = new[name][f]


def match_layout(parts: Mapping[str, Arrays], some: Mapping[str, Arrays]) -> None:
    """Lay out the arrays ``parts`` of a fleet in memory like the arrays that a step has returned, ``some``.

    Args:
        parts: the arrays of all series; an array is replaced if the array of the same name in ``some``
            has another layout.
        some: the arrays that a step has returned for a part of the series. A step copies an array of another
            layout. A large fleet is stepped in parts, and each step of it would copy such arrays.
    """
    for name, own in parts.items():
        for f, array in own.items():
            order, now = (np.argsort([-s for s in a.strides], kind="stable") for a in (some[name][f], array))
            if (order != now).any():
                laid = np.ascontiguousarray(array.transpose(order))
                own[f] = laid.transpose(np.argsort(order))


def _with_room(array: NDArray[Any], series: int) -> NDArray[Any]:
    """Return an array with ``series`` rows, in the memory layout of ``array``: its first rows are ``array``.

    The other rows are not initialized.
    """
    order = np.argsort([-stride for stride in array.strides], kind="stable")
    shape = np.array((series, *array.shape[1:]))
    memory = np.empty(shape[order], array.dtype).transpose(np.argsort(order))
    memory[: len(array)] = array
    return memory


def _same_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether both arrays begin at the same address, with equal strides and dtype."""
    same = one.__array_interface__["data"] == other.__array_interface__["data"]
    return same and one.strides == other.strides and one.dtype == other.dtype
