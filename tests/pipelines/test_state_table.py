from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shard import shard_of
from forecaster.state import State
from forecaster.stepping import advance
from forecaster.windows import Windows
from pipelines import state_table
from pipelines.coders import ShardState
from schemas import observations
from schemas.errors import DataError, ModelError, OutputError
from schemas.states import check_states
from tests.fleets import START, assert_same_state, forecaster

NAMES = tuple(f"series {i}" for i in range(20))


def state_of(names: tuple[str, ...]) -> State:
    fleet = Windows(names, START, np.random.default_rng(0).normal(size=(3, len(names))))
    return advance(forecaster(), forecaster().initial_state(), fleet)[0]


def pending_of(names: tuple[str, ...], event: str | None = None) -> pl.DataFrame:
    rows = pl.DataFrame(
        {"series_id": names, "timestamp": datetime(2013, 1, 1, 7, tzinfo=UTC), "value": 1.0},
        schema=observations.SCHEMA,
    )
    return rows if event is None else rows.with_columns(event_id=pl.lit(event))


def write(
    folder: Path, shards: int, closed_through: int | None = START + 2, event: str | None = None
) -> None:
    for shard in range(shards):
        names = tuple(name for name in NAMES if shard_of(name, shards) == shard)
        state = state_of(names) if names else forecaster().initial_state()
        part = ShardState(pending_of(names[:2], event), state.to_bytes(), shard, closed_through)
        state_table.write_part(folder, part)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, 3)
    state_table.write_position(tmp_path, '{"done": ["a b.csv"]}')
    table = state_table.read(tmp_path)
    assert table.state is not None
    assert sorted(table.state.series_ids) == sorted(NAMES)
    assert table.closed_through == START + 2
    assert table.position == '{"done": ["a b.csv"]}'
    assert len(table.pending) == 6
    check_states(pl.read_parquet(tmp_path / "series" / "*.parquet"))


@given(before=st.integers(1, 6), now=st.integers(1, 25))
def test_a_table_is_parted_into_any_number_of_shards_without_loss(
    tmp_path_factory: pytest.TempPathFactory, before: int, now: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    write(folder, before)
    table = state_table.read(folder)
    states, rows = zip(*(table.shard(number, now) for number in range(now)), strict=True)
    for number, state in enumerate(states):
        assert all(shard_of(name, now) == number for name in state.series_ids)
    assert table.state is not None
    assert_same_state(State.join(list(states)), table.state)
    assert pl.concat(rows).sort("series_id").equals(table.pending.sort("series_id"))


def test_waiting_rows_keep_their_event(tmp_path: Path) -> None:
    write(tmp_path, 3, event="e1")
    assert state_table.read(tmp_path).pending["event_id"].unique().to_list() == ["e1"]


def test_a_table_of_no_series_says_so_and_is_one(tmp_path: Path) -> None:
    part = ShardState(observations.empty(), forecaster().initial_state().to_bytes(), 0, None)
    state_table.write_part(tmp_path, part)
    table = state_table.read(tmp_path)
    assert table.state is not None
    assert len(table.state) == 0
    assert table.closed_through is None
    assert table.position == ""


def test_a_folder_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state table"):
        state_table.read(tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "series" / "shard-0001.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match=r"shard-0001\.parquet: not a readable Parquet file") as told:
        state_table.read(tmp_path)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    path = tmp_path / "series" / "shard-0001.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(ModelError, match=r"shard-0001\.parquet: state format none"):
        state_table.read(tmp_path)


def test_a_table_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, 1, START + 2)
    assert state_table.read(tmp_path).closed_through == START + 2
    write(tmp_path, 1, START + 3)
    os.utime(tmp_path / "series" / "shard-0000.parquet", (1, 1))
    assert state_table.read(tmp_path).closed_through == START + 3


def test_a_new_table_replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write(folder, 8)
    write(state_table.beside(folder), 2, START + 9)
    state_table.put_in_place(folder)
    assert state_table.read(folder).closed_through == START + 9
    assert len(list((folder / "series").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_table_is_left_where_it_is_when_there_is_no_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write(folder, 2)
    with pytest.raises(OutputError, match="cannot be put in place"):
        state_table.put_in_place(folder)
    assert state_table.read(folder).closed_through == START + 2
