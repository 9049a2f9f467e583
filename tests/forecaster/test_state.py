"""Tests of states as bytes and as Parquet files, of divided and joined states, and of older formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.state import FORMAT_VERSION, State, live
from forecaster.stepping.advance import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import ModelError
from tests.fleets import HOUR_US, START, fleets, forecaster


def assert_equal(a: State, b: State) -> None:
    """Assert that two states are equal, including the types and shapes of their arrays; NaN equals NaN."""
    assert (a.model_version, a.freq, a.series_ids) == (b.model_version, b.freq, b.series_ids)
    one, other = arrays(a), arrays(b)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name, strict=True)


def arrays(state: State) -> dict[str, NDArray[Any]]:
    """Return a dict of the arrays of a state; each key is the name of the array's column in `State.frame`."""
    parts = {f"{name}.{field}": a for name, by_field in state.parts.items() for field, a in by_field.items()}
    return {"clock": state.clock, "silent": state.silent, **parts}


@st.composite
def states(draw: st.DrawFn) -> State:
    """Generate a state after some windows, or a new state whose series have no value yet."""
    cell, max_gap = draw(st.sampled_from(["lstm", "gru", "rnn"])), draw(st.sampled_from([2, 672]))
    model = forecaster(cell, layers=draw(st.integers(1, 3)), max_gap=max_gap)
    if draw(st.booleans()):
        state, _ = advance(model, model.initial_state(), draw(fleets()))
        return state
    names = draw(st.lists(st.text(min_size=1, max_size=9).filter(has_no_surrogates), unique=True, max_size=4))
    return model.new_series_state(tuple(names), START)


def has_no_surrogates(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


@given(state=states())
def test_a_state_is_restored_from_bytes(state: State) -> None:
    assert_equal(State.from_bytes(state.to_bytes()), state)


@given(state=states())
def test_a_state_is_restored_from_parquet(tmp_path_factory: pytest.TempPathFactory, state: State) -> None:
    path = tmp_path_factory.getbasetemp() / "state.parquet"
    pq.write_table(state.to_arrow(), path)
    assert_equal(State.from_arrow(pq.read_table(path)), state)


def test_state_frame_has_datetime_clock_and_lists_for_arrays() -> None:
    model = forecaster()
    values = np.array([[1.0], [np.nan], [4.0]])
    state, _ = advance(model, model.initial_state(), Windows(("a",), START, values))
    row = state.frame().row(0, named=True)
    assert row["series_id"] == "a"
    assert row["model_version"] == model.version
    assert row["clock"].timestamp() * 1_000_000 == (START + 3) * HOUR_US
    assert (row["moments.observed"], row["moments.last"], row["moments.age"]) == (2, 4.0, 0)
    assert row["silent"] == 0
    assert row["ring.values"][START % 8] == 1.0
    assert len(row["network.hidden"]) == len(row["network.cell"]) == 2 * 8


@given(state=states(), data=st.data())
def test_putting_taken_series_back_leaves_a_state_unchanged(state: State, data: st.DataObject) -> None:
    index = np.array(data.draw(st.permutations(range(len(state)))), np.int64)
    index = index[: data.draw(st.integers(0, len(state)))]
    part = state.take(index)
    assert part.series_ids == tuple(state.series_ids[i] for i in index)
    changed = state.copy()
    changed.put(index, part)
    assert_equal(changed, state)


@given(state=states(), at=st.integers(0, 9))
def test_joining_the_two_parts_of_a_divided_state_restores_the_state(state: State, at: int) -> None:
    series = np.arange(len(state))
    assert_equal(State.join([state.take(series[:at]), state.take(series[at:])]), state)


@given(state=states())
def test_copy_and_take_share_no_memory_with_the_state(state: State) -> None:
    before = state.copy()
    for other in (state.copy(), state.take(np.arange(len(state)))):
        for array in arrays(other).values():
            array.fill(1)
    assert_equal(state, before)


def test_putting_series_into_a_state_changes_no_other_series() -> None:
    model = forecaster()
    state = model.new_series_state(("a", "b", "c"), START)
    part, _ = advance(
        model, model.new_series_state(("x", "y"), START), Windows(("x", "y"), START, np.array([[5.0, 7.0]]))
    )
    state.put(np.array([2, 0]), part)
    assert state.series_ids == ("a", "b", "c")
    assert state.parts["moments"]["last"].tolist() == [7.0, 0.0, 5.0]
    assert live(state).tolist() == [True, False, True]
    assert state.clock.tolist() == [START, START - 1, START]
    assert_equal(state.take(np.array([1])), model.new_series_state(("b",), START))


def test_invalid_state_bytes_are_refused() -> None:
    data = forecaster().new_series_state(("a",), START).to_bytes()
    for broken in (b"", b"PAR1", data[: len(data) // 2], b"\x00" * 64):
        with pytest.raises(ModelError, match=r"do not hold a state|state format"):
            State.from_bytes(broken)


def test_the_error_names_the_unknown_format_of_a_state() -> None:
    table = forecaster().new_series_state(("a",), START).to_arrow()
    other = table.replace_schema_metadata({**table.schema.metadata, b"statecast.state.format": b"99"})
    with pytest.raises(ModelError, match=rf"format 99 .*\(this version reads {FORMAT_VERSION}\)"):
        State.from_arrow(other)
    with pytest.raises(ModelError, match="format none"):
        State.from_arrow(pa.table({"series_id": ["a"]}))


@pytest.mark.parametrize(
    ("component", "changed"),
    [("ring", {"ring": 9}), ("stacking", {"stacking": 1}), ("wheel", {"wheel": 1, "ring": 1})],
)
def test_the_error_names_a_state_component_of_another_format(component: str, changed: dict[str, int]) -> None:
    table = forecaster().new_series_state(("a",), START).to_arrow()
    layout = json.loads(table.schema.metadata[b"statecast.state.layout"])
    for name, number in changed.items():
        layout["components"][name] = {"format": number, "fields": {}}
    metadata = {**table.schema.metadata, b"statecast.state.layout": json.dumps(layout)}
    with pytest.raises(ModelError, match=rf"format {changed[component]} of the state's {component} .*rows$"):
        State.from_arrow(table.replace_schema_metadata(metadata))


def test_anomaly_alarms_of_format_2_are_converted_when_read() -> None:
    state = forecaster().new_series_state(("a", "b", "c"), START)
    state.parts["anomaly"]["alarming"][:] = 0, 1, 1
    state.parts["anomaly"]["run"][:] = 5, 5, 0
    table = state.to_arrow()
    layout = json.loads(table.schema.metadata[b"statecast.state.layout"])
    layout["components"]["anomaly"]["format"] = 2
    metadata = {**table.schema.metadata, b"statecast.state.layout": json.dumps(layout)}
    read = State.from_arrow(table.replace_schema_metadata(metadata)).parts["anomaly"]["alarming"]
    assert read.dtype == np.uint8
    assert read.tolist() == [0, 3, 1]


def test_the_error_names_a_missing_column_of_a_state() -> None:
    table = forecaster().new_series_state(("a",), START).to_arrow()
    with pytest.raises(ModelError, match=r"column moments\.mean cannot be read"):
        State.from_arrow(table.drop_columns("moments.mean"))


def test_a_state_of_format_1_raises_a_one_line_error() -> None:
    table = forecaster().new_series_state(("a",), START).to_arrow()
    first = table.replace_schema_metadata({b"statecast.state.format": b"1"})
    with pytest.raises(ModelError, match=rf"state format 1 is not .* reads {FORMAT_VERSION}\)$"):
        State.from_arrow(first)


def test_bytes_per_series_is_the_sum_over_the_state_arrays() -> None:
    state = forecaster(ring=8).new_series_state(("a", "b"), START)
    expected = {"moments": 13 * 8 + 1, "ring": 8 * 8, "network": 2 * 8 * 4 * 2 + 6 * 4}
    assert {name: state.bytes_by_component[name] for name in expected} == expected
    assert state.bytes_per_series == 8 * 2 + sum(state.bytes_by_component.values())
    assert (
        forecaster("gru").new_series_state(("a",), START).bytes_by_component["network"] == 2 * 8 * 4 + 6 * 4
    )
    assert forecaster().initial_state().bytes_per_series == 0


def test_a_state_without_a_ring_has_no_ring_columns() -> None:
    network = NetworkConfig(hidden=4, horizon=3, lags=(), ring=0)
    model = Forecaster.untrained(network, WindowConfig())
    state, _ = advance(model, model.initial_state(), Windows(("a",), START, np.array([[1.0], [2.0]])))
    assert state.parts["ring"] == {}
    assert not [name for name in state.to_arrow().column_names if name.startswith("ring")]
    assert_equal(State.from_bytes(state.to_bytes()), state)


def test_plain_polars_reads_the_parquet_file_of_a_state(tmp_path: Path) -> None:
    path = tmp_path / "state.parquet"
    pq.write_table(forecaster().new_series_state(("a",), START).to_arrow(), path)
    assert pl.read_parquet(path)["series_id"].to_list() == ["a"]
