"""Tests of the state table of a job, a folder with a snapshot of each shard."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipelines.state import snapshot_file, state_table
from schemas.errors import DataError, ModelError, OutputError
from tests.fleets import START
from tests.shards import NAMES, shards_after_five_windows


def test_a_state_table_can_be_read_as_plain_parquet(tmp_path: Path) -> None:
    for shard in shards_after_five_windows(3):
        snapshot_file.write_shard(tmp_path, shard)
    rows = pl.concat([pl.read_parquet(file) for file in tmp_path.glob("*.parquet")], how="diagonal")
    assert sorted(rows["series_id"]) == sorted(NAMES)
    assert rows["pending"].list.len().sum() == 2 * len(NAMES)


def test_reading_a_state_table_combines_its_shards(tmp_path: Path) -> None:
    for shard in shards_after_five_windows(3, event="é"):
        snapshot_file.write_shard(tmp_path, shard)
    table = state_table.read(tmp_path)
    assert sorted(table.state.series_ids) == sorted(NAMES)
    assert table.closed_through == START + 2
    assert len(table.pending) == 2 * len(NAMES)
    assert table.pending.columns == ["series_id", "timestamp", "value", "event_id"]
    assert table.pending["event_id"].n_unique() == len(table.pending)
    assert table.counts.missing == 0
    assert (table.counts.used, table.counts.pending) == (60, 40)
    assert (table.offset("rows"), table.offset("another")) == (100, 0)


def test_state_table_read_without_series_has_counts_and_offsets(tmp_path: Path) -> None:
    for shard in shards_after_five_windows(3, event="é"):
        snapshot_file.write_shard(tmp_path, replace(shard, offsets={"rows": 70 + shard.number}))
    whole, offsets = state_table.read(tmp_path), state_table.read(tmp_path, series=False)
    assert not len(offsets.state)
    assert not len(offsets.pending)
    assert offsets.counts == whole.counts
    assert offsets.closed_through == whole.closed_through == START + 2
    assert offsets.progress_by_partition() == whole.progress_by_partition()
    assert offsets.progress_by_partition()["rows"][:3:2] == (70, (71, 72))


def test_resuming_reads_from_the_smallest_offset_of_all_shards(tmp_path: Path) -> None:
    first, second, third = shards_after_five_windows(3)
    for shard in (first, replace(second, offsets={"rows": 70}), third):
        snapshot_file.write_shard(tmp_path, shard)
    assert state_table.read(tmp_path).offset("rows") == 70


def test_a_folder_without_a_state_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.parquet").write_bytes(b"")
    assert not state_table.exists(tmp_path)
    assert not state_table.exists(tmp_path / "nowhere")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="holds no state table"):
            state_table.read(folder)


def test_the_error_names_a_damaged_snapshot_file(tmp_path: Path) -> None:
    state_table.write(tmp_path / "state", shards_after_five_windows(2))
    (tmp_path / "state" / "shard-0001-of-0002.parquet").write_bytes(b"PAR1 and nothing")
    for read in (lambda f: state_table.read(f), lambda f: snapshot_file.read_shard(f, 1, 2)):
        with pytest.raises(
            DataError, match=r"shard-0001-of-0002\.parquet: not a readable Parquet file"
        ) as caught:
            read(tmp_path / "state")
        assert "\n" not in str(caught.value)


def test_the_error_names_a_parquet_file_without_shard_metadata(tmp_path: Path) -> None:
    state_table.write(tmp_path / "state", shards_after_five_windows(2))
    path = tmp_path / "state" / "shard-0001-of-0002.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(ModelError, match=r"shard-0001-of-0002\.parquet: this is not a shard"):
        state_table.read(tmp_path / "state")


@pytest.mark.parametrize("spoil", ["missing", "of another table"])
def test_state_tables_with_missing_or_extra_shards_are_refused(tmp_path: Path, spoil: str) -> None:
    state_table.write(tmp_path / "state", shards_after_five_windows(3))
    if spoil == "missing":
        (tmp_path / "state" / "shard-0001-of-0003.parquet").unlink()
    else:
        snapshot_file.write_shard(tmp_path / "state", shards_after_five_windows(2)[0])
    with pytest.raises(DataError, match=r"each of its [23] shards \(snapshots: \d\): copy the whole folder"):
        state_table.read(tmp_path / "state")


def test_progress_by_partition_gives_smallest_offset_and_largest_watermark(tmp_path: Path) -> None:
    first, second, third = shards_after_five_windows(3)
    shards = [
        replace(first, offsets={"a": 5, "b": 9}, watermarks={"a": 1, "b": None}),
        replace(second, offsets={"a": 5, "b": 4}, watermarks={"a": 3, "b": 7}),
        replace(third, offsets={"a": 8, "b": 6}, watermarks={"a": 9, "b": 8}),
    ]
    state_table.write(tmp_path / "state", shards)
    progress = state_table.read(tmp_path / "state").progress_by_partition()
    assert progress == {"a": (5, 3, (8,), 9), "b": (4, 7, (6, 9), 8)}


@pytest.mark.parametrize("renames", range(3))
def test_an_interrupted_replacement_leaves_a_complete_state_table(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, made = tmp_path / "state", os.replace, 0
    state_table.write(folder, shards_after_five_windows(3, 2))

    def die(source: Any, target: Any) -> None:
        nonlocal made
        if "state" in {Path(source).name, Path(target).name}:
            if made == renames:
                raise KeyboardInterrupt
            made += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(shutil, "rmtree", lambda *given, **options: None)
    monkeypatch.setattr("pipelines.storage.moved_parts._REMOVE_LIMIT_S", 0.1)
    if renames < 2:
        with pytest.raises(KeyboardInterrupt):
            state_table.write(folder, shards_after_five_windows(2, 4))
    else:
        state_table.write(folder, shards_after_five_windows(2, 4))
    monkeypatch.undo()
    state_table.recover(folder)
    table = state_table.read(folder)
    assert (len(table.shards), table.closed_through) == ((3, START + 1) if renames < 1 else (2, START + 3))
    assert os.listdir(tmp_path) == ["state"]


def test_a_failed_replacement_keeps_the_old_state_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "state", os.replace
    state_table.write(folder, shards_after_five_windows(3))

    def fail_to_rename(source: Any, target: Any) -> None:
        if "state" in {Path(source).name, Path(target).name}:
            raise OSError(30, "Read-only file system")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_to_rename)
    with pytest.raises(OutputError, match=r"state: the state table cannot be put in place \(Read-only"):
        state_table.write(folder, shards_after_five_windows(2))
    monkeypatch.undo()
    state_table.recover(folder)
    assert len(state_table.read(folder).shards) == 3
