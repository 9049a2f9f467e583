from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.counts import Counts
from forecaster.sharding import shard_of
from forecaster.windows import Windows
from pipelines import snapshot_file, state_table
from schemas.errors import DataError, ModelError, OutputError
from schemas.states import check_states
from tests.fleets import (
    START,
    assert_same_state,
    fleets,
    forecaster,
)
from tests.shards import NAMES, shards_of, some


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- snapshots ---------------------------------------------------------------------------------------------


def test_a_table_is_one_of_parquet_files_that_anybody_reads(tmp_path: Path) -> None:
    for shard in some(3):
        snapshot_file.write_shard(tmp_path, shard)
    rows = pl.concat([pl.read_parquet(file) for file in tmp_path.glob("*.parquet")], how="diagonal")
    check_states(rows.drop("pending"))
    assert rows["pending"].list.len().sum() == 2 * len(NAMES)


def test_a_table_says_of_all_shards_what_they_say(tmp_path: Path) -> None:
    for shard in some(3, event="e1"):
        snapshot_file.write_shard(tmp_path, shard)
    table = state_table.read(tmp_path)
    assert sorted(table.state.series_ids) == sorted(NAMES)
    assert table.closed_through == START + 2
    assert len(table.pending) == 2 * len(NAMES)
    assert table.pending.columns == ["series_id", "timestamp", "value", "event_id"]
    assert table.pending["event_id"].unique().to_list() == ["e1"]
    assert table.counts.missing == 0
    assert (table.counts.used, table.counts.pending) == (60, 40)
    assert (table.offset("rows"), table.offset("another")) == (100, 0)


def test_a_source_goes_on_from_what_every_shard_has_read(tmp_path: Path) -> None:
    first, second, third = some(3)
    for shard in (first, replace(second, offsets={"rows": 70}), third):
        snapshot_file.write_shard(tmp_path, shard)
    assert state_table.read(tmp_path).offset("rows") == 70


# --- what is no table --------------------------------------------------------------------------------------


def test_a_folder_without_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.parquet").write_bytes(b"")
    assert not state_table.exists(tmp_path)
    assert not state_table.exists(tmp_path / "nowhere")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="holds no state table"):
            state_table.read(folder)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    state_table.write(tmp_path / "state", some(2))
    (tmp_path / "state" / "shard-0001-of-0002.parquet").write_bytes(b"PAR1 and nothing")
    for read in (lambda f: state_table.read(f), lambda f: snapshot_file.read_shard(f, 1, 2)):
        with pytest.raises(
            DataError, match=r"shard-0001-of-0002\.parquet: not a readable Parquet file"
        ) as told:
            read(tmp_path / "state")
        assert "\n" not in str(told.value)


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    state_table.write(tmp_path / "state", some(2))
    path = tmp_path / "state" / "shard-0001-of-0002.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(ModelError, match=r"shard-0001-of-0002\.parquet: this is no shard"):
        state_table.read(tmp_path / "state")


@pytest.mark.parametrize("spoil", ["missing", "of another table"])
def test_a_table_that_is_not_whole_is_refused(tmp_path: Path, spoil: str) -> None:
    state_table.write(tmp_path / "state", some(3))
    if spoil == "missing":
        (tmp_path / "state" / "shard-0001-of-0003.parquet").unlink()
    else:
        snapshot_file.write_shard(tmp_path / "state", some(2)[0])
    with pytest.raises(DataError, match=r"not each of [23] once: copy the folder again, as a whole"):
        state_table.read(tmp_path / "state")


# --- a table for a job to begin with -----------------------------------------------------------------------


def begin(folder: Path, shards: int, start: Path | None, *, resume: bool = False) -> None:
    state_table.begin(folder, shards, start, forecaster().initial_state(), resume=resume)


@given(fleet=fleets(), before=st.integers(1, 6), now=st.integers(1, 25), closed=st.integers(0, 30))
def test_a_table_is_cut_into_any_number_of_shards_without_loss(
    tmp_path_factory: pytest.TempPathFactory, fleet: Windows, before: int, now: int, closed: int
) -> None:
    folder = tmp_path_factory.mktemp("out") / "state"
    state_table.write(folder, shards_of(fleet, before, closed, "e"))
    old = state_table.read(folder)
    begin(folder, now, folder, resume=True)
    new = state_table.read(folder)
    assert [(shard.number, shard.of) for shard in new.shards] == [(number, now) for number in range(now)]
    for shard in new.shards:
        assert all(shard_of(name, now) == shard.number for name in shard.state.series_ids)
        assert shard.closed_through == old.closed_through
        assert len(shard.pending) == shard.counts.pending
    assert_same_state(new.state, old.state)
    order = old.pending.columns  # without any row, none has an event
    assert new.pending.select(order).sort(order).equals(old.pending.select(order).sort(order))
    assert new.counts == old.counts
    assert new.offset("rows") == old.offset("rows")
    assert {shard.watermark_us for shard in new.shards} == {old.shards[0].watermark_us}


def test_a_job_that_goes_on_finds_its_table_as_it_was_and_the_manifests_of_its_sources(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    state_table.write(folder, some(3))
    (folder / "folder.jsonl").write_text("{}")
    before = contents(folder)
    begin(folder, 3, folder, resume=True)
    assert contents(folder) == before
    begin(folder, 2, folder, resume=True)
    assert (folder / "folder.jsonl").read_text() == "{}"
    assert len(state_table.read(folder).shards) == 2
    assert os.listdir(tmp_path) == ["state"]


def test_another_job_gets_states_and_rows_and_a_log_of_its_own(tmp_path: Path) -> None:
    state_table.write(tmp_path / "a", some(3))
    (tmp_path / "a" / "folder.jsonl").write_text("{}")
    for own in (tmp_path / "b", tmp_path / "a"):
        begin(own, 2, tmp_path / "a")
        table = state_table.read(own)
        assert table.offset("rows") == 0
        assert table.counts == Counts(restored=40, pending=40)
        assert table.closed_through == START + 2
        assert sorted(table.state.series_ids) == sorted(NAMES)
        assert all(not shard.watermarks for shard in table.shards)
        assert not (own / "folder.jsonl").exists()


def test_a_table_knows_how_far_its_shards_have_come_and_where_they_stand_apart(tmp_path: Path) -> None:
    first, second, third = some(3)
    shards = [
        replace(first, offsets={"a": 5, "b": 9}, watermarks={"a": 1, "b": None}),
        replace(second, offsets={"a": 5, "b": 4}, watermarks={"a": 3, "b": 7}),
        replace(third, offsets={"a": 8, "b": 6}, watermarks={"a": 9, "b": 8}),
    ]
    state_table.write(tmp_path / "state", shards)
    assert state_table.read(tmp_path / "state").reached() == {"a": (5, 3, (8,), 9), "b": (4, 7, (6, 9), 8)}


def test_every_shard_knows_all_partitions_from_the_start_and_waits_for_each(tmp_path: Path) -> None:
    cold, folder = forecaster().initial_state(), tmp_path / "state"
    state_table.begin(folder, 2, None, cold, partitions={"a": 100, "b": 0})
    for shard in state_table.read(folder).shards:
        assert (shard.offsets, shard.watermarks) == ({"a": 100, "b": 0}, {"a": None, "b": None})
    state_table.begin(folder, 2, folder, cold, resume=True, partitions={"a": 7, "b": 7, "c": 3})
    for shard in state_table.read(folder).shards:
        assert (shard.offsets, shard.watermarks) == (
            {"a": 100, "b": 0, "c": 3},
            {"a": None, "b": None, "c": None},
        )


def test_shards_of_a_keyed_topic_know_their_own_partitions_and_stay_as_they_are(tmp_path: Path) -> None:
    cold, folder = forecaster().initial_state(), tmp_path / "state"
    partitions, owners = {"t-0": 0, "t-1": 0, "t-2": 7}, {"t-0": 0, "t-1": 1, "t-2": 0}

    def begun(
        shards: int, start: Path | None, resume: bool = False, own: dict[str, int] = owners
    ) -> list[Any]:
        state_table.begin(folder, shards, start, cold, resume=resume, partitions=partitions, owners=own)
        return [dict(shard.offsets) for shard in state_table.read(folder).shards]

    assert begun(2, None) == begun(2, folder) == [{"t-0": 0, "t-2": 7}, {"t-1": 0}]
    made = state_table.read(folder).shards
    state_table.write(folder, [replace(made[0], offsets={"t-0": 5, "t-2": 9}), made[1]])
    partitions["t-3"], owners["t-3"] = 0, 1
    assert begun(2, folder, True) == [{"t-0": 5, "t-2": 9}, {"t-1": 0, "t-3": 0}]
    assert {name: place[0] for name, place in state_table.read(folder).reached().items()} == {
        "t-0": 5,
        "t-2": 9,
        "t-1": 0,
        "t-3": 0,
    }
    for shards, resume, own in ((3, True, owners), (3, False, owners), (2, True, {}), (2, False, {})):
        with pytest.raises(DataError, match=r"state: its series lie by the partitions of a keyed topic"):
            begun(shards, folder, resume, own)
    state_table.write(folder, some(2))
    for resume in (True, False):
        with pytest.raises(DataError, match=r"state: its series lie in shards by their names, and .*= false"):
            begun(2, folder, resume)
    assert state_table.homes(folder) == {name: shard_of(name, 2) for name in NAMES}
    assert state_table.homes(tmp_path) == {}


def test_a_cold_start_takes_what_was_there_away_and_leaves_a_whole_table(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state_table.write(folder, some(3))
    (folder / "folder.jsonl").write_text("{}")
    begin(folder, 2, None)
    table = state_table.read(folder)
    assert [(len(shard.state), shard.of, shard.counts) for shard in table.shards] == [(0, 2, Counts())] * 2
    assert (table.closed_through, table.offset("rows"), len(table.pending)) == (None, 0, 0)
    assert not (folder / "folder.jsonl").exists()


def test_shards_that_stand_at_several_places_are_not_cut(tmp_path: Path) -> None:
    first, second = some(2)
    state_table.write(tmp_path / "state", [first, replace(second, offsets={"rows": 70})])
    before = contents(tmp_path)
    for resume in (True, False):
        with pytest.raises(DataError, match=r"state: its shards stand at different places .*--resume and 2"):
            begin(tmp_path / "state", 3, tmp_path / "state", resume=resume)
    assert contents(tmp_path) == before
    begin(tmp_path / "state", 2, tmp_path / "state", resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("renames", range(3))
def test_a_table_whose_job_died_while_it_was_put_in_place_is_the_old_one_or_the_new(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, made = tmp_path / "state", os.replace, 0
    state_table.write(folder, some(3, 2))

    def die(source: Any, target: Any) -> None:
        nonlocal made
        if "state" in {Path(source).name, Path(target).name}:
            if made == renames:
                raise KeyboardInterrupt
            made += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(shutil, "rmtree", lambda *given, **options: None)
    if renames < 2:
        with pytest.raises(KeyboardInterrupt):
            state_table.write(folder, some(2, 4))
    else:
        state_table.write(folder, some(2, 4))
    monkeypatch.undo()
    state_table.recover(folder)
    table = state_table.read(folder)
    assert (len(table.shards), table.closed_through) == ((3, START + 1) if renames < 2 else (2, START + 3))
    assert os.listdir(tmp_path) == ["state"]


def test_a_table_is_left_where_it_is_when_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "state", os.replace
    state_table.write(folder, some(3))

    def full(source: Any, target: Any) -> None:
        if "state" in {Path(source).name, Path(target).name}:
            raise OSError(30, "Read-only file system")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="state: the state table cannot be put in place: Read-only"):
        state_table.write(folder, some(2))
    monkeypatch.undo()
    state_table.recover(folder)
    assert len(state_table.read(folder).shards) == 3


def test_a_table_of_format_1_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "state" / "series").mkdir(parents=True)
    (tmp_path / "state" / "series" / "shard-0000.parquet").write_bytes(b"PAR1")
    before = contents(tmp_path)
    assert state_table.exists(tmp_path / "state")
    for resume in (False, True):
        with pytest.raises(
            ModelError, match=r"state: .* format 1 is not readable here: start without"
        ) as told:
            begin(tmp_path / "state", 2, tmp_path / "state", resume=resume)
        assert "\n" not in str(told.value)
    assert contents(tmp_path) == before
