from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.state import FORMAT_VERSION, State
from forecaster.stepping import advance
from forecaster.windows import Windows
from schemas.errors import ModelError
from schemas.states import check_states
from tests.fleets import HOUR_US, START, fleets, forecaster

ARRAYS = ("clock", "observed", "mean", "variance", "last", "age", "hidden", "cell", "ring")


def assert_equal(a: State, b: State) -> None:
    """Equal to the bit, types and shapes included."""
    assert (a.model_version, a.freq_s, a.series_ids) == (b.model_version, b.freq_s, b.series_ids)
    for name in ARRAYS:
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name, strict=True)


@st.composite
def states(draw: st.DrawFn) -> State:
    """A state as `advance` makes it, or one of no series."""
    model = forecaster(draw(st.sampled_from(["lstm", "gru", "rnn"])), layers=draw(st.integers(1, 3)))
    if draw(st.booleans()):
        state, _ = advance(model, model.initial_state(), draw(fleets()))
        return state
    names = draw(st.lists(st.text(min_size=1, max_size=9).filter(is_encodable), unique=True, max_size=4))
    return model.unseen(tuple(names), START)


def is_encodable(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


@given(state=states())
def test_a_state_comes_back_from_bytes_as_it_was(state: State) -> None:
    assert_equal(State.from_bytes(state.to_bytes()), state)


@given(state=states())
def test_a_state_comes_back_from_parquet_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, state: State
) -> None:
    path = tmp_path_factory.getbasetemp() / "state.parquet"
    pq.write_table(state.to_arrow(), path)
    assert_equal(State.from_arrow(pq.read_table(path)), state)


@given(state=states())
def test_a_state_table_is_what_the_schema_says(state: State) -> None:
    named = State(**{**vars(state), "series_ids": tuple(f"s{i}" for i in range(len(state)))})
    check_states(named.frame())


def test_a_state_table_reads_as_times_and_lists_for_people() -> None:
    model = forecaster()
    values = np.array([[1.0], [np.nan], [4.0]])
    state, _ = advance(model, model.initial_state(), Windows(("a",), START, values))
    row = state.frame().row(0, named=True)
    assert row["series_id"] == "a"
    assert row["model_version"] == model.version
    assert row["clock"].timestamp() * 1_000_000 == (START + 3) * HOUR_US
    assert (row["observed"], row["last"], row["age"]) == (2, 4.0, 0)
    assert row["ring"][-3] == 1.0
    assert len(row["hidden"]) == len(row["cell"]) == 2 * 8


@given(state=states(), data=st.data())
def test_taking_and_replacing_series_are_inverses(state: State, data: st.DataObject) -> None:
    index = np.array(data.draw(st.permutations(range(len(state)))), np.int64)
    index = index[: data.draw(st.integers(0, len(state)))]
    part = state.take(index)
    assert part.series_ids == tuple(state.series_ids[i] for i in index)
    assert_equal(state.replace(index, part), state)


@given(state=states(), at=st.integers(0, 9))
def test_states_of_parts_join_to_the_state_of_the_whole(state: State, at: int) -> None:
    series = np.arange(len(state))
    assert_equal(State.join([state.take(series[:at]), state.take(series[at:])]), state)


def test_replacing_series_leaves_the_state_that_was_given_alone() -> None:
    state = forecaster().unseen(("a", "b"), START)
    part = State(**{**vars(state.take(np.array([1]))), "mean": np.array([5.0])})
    changed = state.replace(np.array([1]), part)
    assert changed.mean.tolist() == [0.0, 5.0]
    assert state.mean.tolist() == [0.0, 0.0]


def test_bytes_that_are_no_state_are_refused() -> None:
    data = forecaster().unseen(("a",), START).to_bytes()
    for broken in (b"", b"PAR1", data[: len(data) // 2], b"\x00" * 64):
        with pytest.raises(ModelError, match=r"no state|state format"):
            State.from_bytes(broken)


def test_a_state_of_another_format_is_refused_by_its_number() -> None:
    table = forecaster().unseen(("a",), START).to_arrow()
    other = table.replace_schema_metadata({**table.schema.metadata, b"statecast.state.format": b"99"})
    with pytest.raises(ModelError, match=rf"format 99 .*\(this version reads {FORMAT_VERSION}\)"):
        State.from_arrow(other)
    with pytest.raises(ModelError, match="format none"):
        State.from_arrow(pa.table({"series_id": ["a"]}))


def test_bytes_per_series_are_those_of_the_arrays() -> None:
    state = forecaster(ring=8).unseen(("a", "b"), START)
    assert state.bytes_per_series == 8 * 6 + 2 * 8 * 4 * 2 + 8 * 8
    assert forecaster("gru").unseen(("a",), START).bytes_per_series == 8 * 6 + 2 * 8 * 4 + 8 * 8
    assert forecaster().initial_state().bytes_per_series == 0


def test_the_state_table_needs_nothing_of_ours_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "state.parquet"
    pq.write_table(forecaster().unseen(("a",), START).to_arrow(), path)
    assert pl.read_parquet(path)["series_id"].to_list() == ["a"]
