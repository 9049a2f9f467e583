"""Tests of the choice of the state table with which a job starts.

It is the job's own table, that of an earlier job, one of these with another number of shards, or an empty
table.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards.counts import Counts
from forecaster.shards.sharding import shard_of
from forecaster.time.windows import Windows
from pipelines.state import state_table
from pipelines.state.first_table import write_first_table
from schemas.errors import DataError
from tests.comparisons import assert_same_state
from tests.fleets import START, fleets, forecaster
from tests.outputs import contents
from tests.shards import NAMES, shards_after_five_windows, shards_of


def begin(folder: Path, shards: int, start: Path | None, *, resume: bool = False) -> None:
    write_first_table(folder, shards, start, forecaster().initial_state(), resume=resume)


@given(
    fleet=fleets(),
    shards_before=st.integers(1, 6),
    shards_now=st.integers(1, 25),
    closed=st.integers(0, 30),
)
def test_a_state_table_is_resharded_without_loss(
    tmp_path_factory: pytest.TempPathFactory, fleet: Windows, shards_before: int, shards_now: int, closed: int
) -> None:
    folder = tmp_path_factory.mktemp("out") / "state"
    state_table.write(folder, shards_of(fleet, shards_before, closed, "e"))
    old = state_table.read(folder)
    begin(folder, shards_now, folder, resume=True)
    new = state_table.read(folder)
    assert [(shard.number, shard.of) for shard in new.shards] == [
        (number, shards_now) for number in range(shards_now)
    ]
    for shard in new.shards:
        assert all(shard_of(name, shards_now) == shard.number for name in shard.state.series_ids)
        assert shard.closed_through == old.closed_through
        assert len(shard.pending) == shard.counts.pending
    assert_same_state(new.state, old.state)
    # Do not list the columns here: they include event_id only if some shard of the table has read a row.
    order = old.pending.columns
    assert new.pending.select(order).sort(order).equals(old.pending.select(order).sort(order))
    assert new.counts == old.counts
    assert new.offset("rows") == old.offset("rows")
    assert {shard.watermark_us for shard in new.shards} == {old.shards[0].watermark_us}


def test_resuming_changes_the_shard_count_but_not_the_manifest(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    state_table.write(folder, shards_after_five_windows(3))
    (folder / "folder.jsonl").write_text("{}")
    contents_before = contents(folder)
    begin(folder, 3, folder, resume=True)
    assert contents(folder) == contents_before
    begin(folder, 2, folder, resume=True)
    assert (folder / "folder.jsonl").read_text() == "{}"
    assert len(state_table.read(folder).shards) == 2
    assert os.listdir(tmp_path) == ["state"]


def test_resuming_with_equal_shards_and_partitions_reads_no_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_memory_error(*given: Any, **options: Any) -> Any:
        raise MemoryError

    state_table.write(tmp_path / "state", shards_after_five_windows(3))
    monkeypatch.setattr(pq.ParquetFile, "read", raise_memory_error)
    begin(tmp_path / "state", 3, tmp_path / "state", resume=True)
    with pytest.raises(MemoryError):  # resharding must read the series, and each read raises this error
        begin(tmp_path / "state", 2, tmp_path / "state", resume=True)


def test_a_warm_start_copies_no_offsets_watermarks_or_manifest(tmp_path: Path) -> None:
    state_table.write(tmp_path / "a", shards_after_five_windows(3))
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


def test_every_shard_starts_with_offsets_of_all_partitions(tmp_path: Path) -> None:
    cold, folder = forecaster().initial_state(), tmp_path / "state"
    write_first_table(folder, 2, None, cold, partitions={"a": 100, "b": 0})
    for shard in state_table.read(folder).shards:
        assert (shard.offsets, shard.watermarks) == ({"a": 100, "b": 0}, {"a": None, "b": None})
    write_first_table(folder, 2, folder, cold, resume=True, partitions={"a": 7, "b": 7, "c": 3})
    for shard in state_table.read(folder).shards:
        assert (shard.offsets, shard.watermarks) == (
            {"a": 100, "b": 0, "c": 3},
            {"a": None, "b": None, "c": None},
        )


def test_keyed_topic_partitions_keep_their_shards_across_starts(tmp_path: Path) -> None:
    cold, folder = forecaster().initial_state(), tmp_path / "state"
    partitions, owners = {"t-0": 0, "t-1": 0, "t-2": 7}, {"t-0": 0, "t-1": 1, "t-2": 0}

    def begin_and_read_offsets(
        shards: int, start: Path | None, resume: bool = False, own: dict[str, int] = owners
    ) -> list[Any]:
        write_first_table(folder, shards, start, cold, resume=resume, partitions=partitions, owners=own)
        return [dict(shard.offsets) for shard in state_table.read(folder).shards]

    assert (
        begin_and_read_offsets(2, None)
        == begin_and_read_offsets(2, folder)
        == [{"t-0": 0, "t-2": 7}, {"t-1": 0}]
    )
    made = state_table.read(folder).shards
    state_table.write(folder, [replace(made[0], offsets={"t-0": 5, "t-2": 9}), made[1]])
    partitions["t-3"], owners["t-3"] = 0, 1
    assert begin_and_read_offsets(2, folder, True) == [{"t-0": 5, "t-2": 9}, {"t-1": 0, "t-3": 0}]
    assert state_table.read_offsets(folder) == {
        "t-0": 5,
        "t-2": 9,
        "t-1": 0,
        "t-3": 0,
    }
    for shards, resume, own in ((3, True, owners), (3, False, owners), (2, True, {}), (2, False, {})):
        with pytest.raises(DataError, match=r"state: its series are assigned to shards by a keyed topic"):
            begin_and_read_offsets(shards, folder, resume, own)
    state_table.write(folder, shards_after_five_windows(2))
    for resume in (True, False):
        with pytest.raises(
            DataError, match=r"state: this table assigns series to shards by series id, but .*= false"
        ):
            begin_and_read_offsets(2, folder, resume)
    assert state_table.read_series_shards(folder) == {name: shard_of(name, 2) for name in NAMES}
    assert state_table.read_series_shards(tmp_path) == {}


def test_a_start_from_empty_states_replaces_an_earlier_state_table(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state_table.write(folder, shards_after_five_windows(3))
    (folder / "folder.jsonl").write_text("{}")
    begin(folder, 2, None)
    table = state_table.read(folder)
    assert [(len(shard.state), shard.of, shard.counts) for shard in table.shards] == [(0, 2, Counts())] * 2
    assert (table.closed_through, table.offset("rows"), len(table.pending)) == (None, 0, 0)
    assert not (folder / "folder.jsonl").exists()


def test_resharding_is_refused_if_shards_have_different_offsets(tmp_path: Path) -> None:
    first, second = shards_after_five_windows(2)
    state_table.write(tmp_path / "state", [first, replace(second, offsets={"rows": 70})])
    contents_before = contents(tmp_path)
    for resume in (True, False):
        with pytest.raises(DataError, match=r"state: the shards are at different offsets .*--resume and 2"):
            begin(tmp_path / "state", 3, tmp_path / "state", resume=resume)
    assert contents(tmp_path) == contents_before
    begin(tmp_path / "state", 2, tmp_path / "state", resume=True)
    assert contents(tmp_path) == contents_before
