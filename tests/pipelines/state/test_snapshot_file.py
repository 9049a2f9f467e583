"""Tests of the snapshot of a shard as a file, and of its checksum."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import empty_batch
from forecaster.time.windows import Windows
from pipelines.state import snapshot_file, state_table
from schemas.errors import DataError, OutputError
from tests.comparisons import assert_same_state
from tests.damaged import flipped, line_of
from tests.fleets import HOUR_US, START, fleets, forecaster
from tests.shards import assert_equal, shards_after_five_windows, shards_of


@given(fleet=fleets(), of=st.integers(1, 4), closed=st.integers(0, 30), event=st.none() | st.just("é"))
def test_a_shard_in_a_snapshot_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, fleet: Windows, of: int, closed: int, event: str | None
) -> None:
    folder = tmp_path_factory.mktemp("table")
    shards = shards_of(fleet, of, closed, event)
    for shard in shards:
        snapshot_file.write_shard(folder, shard)
    for shard in shards:
        assert_equal(snapshot_file.read_shard(folder, shard.number, of), shard)
        assert_equal(snapshot.from_bytes(snapshot.to_bytes(shard)), shard)
    assert [shard.number for shard in state_table.read(folder).shards] == list(range(of))


@given(fleet=fleets(), closed=st.integers(0, 30))
def test_a_restored_shard_and_its_original_give_equal_forecasts(
    tmp_path_factory: pytest.TempPathFactory, fleet: Windows, closed: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    (shard,) = shards_of(fleet, 1, closed)
    snapshot_file.write_shard(folder, shard)
    again = snapshot_file.read_shard(folder, 0, 1)
    end = replace(empty_batch("rows", again.offsets["rows"]), watermark_us=(fleet.start + 40) * HOUR_US)
    ended = []
    for one in (shard, again):
        issued = []
        for after, output in apply(one, end, forecaster()):
            one = after
            issued += [] if output.forecasts is None else [output.forecasts.frame()]
        ended.append((one, issued))
    assert_same_state(ended[0][0].state, ended[1][0].state)
    assert ended[0][0].counts == ended[1][0].counts
    for a, b in zip(ended[0][1], ended[1][1], strict=True):
        assert a.equals(b)


def test_a_new_snapshot_of_a_shard_replaces_the_older_snapshot(tmp_path: Path) -> None:
    for closed in (2, 3):
        (shard,) = shards_after_five_windows(1, closed)
        snapshot_file.write_shard(tmp_path, shard)
    assert state_table.read(tmp_path).closed_through == START + 2
    assert [path.name for path in tmp_path.iterdir()] == ["shard-0000-of-0001.parquet"]


@pytest.mark.parametrize("at", ["write_table", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_snapshot_keeps_the_earlier_snapshot(
    tmp_path: Path, at: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = shards_after_five_windows(1, 2)
    snapshot_file.write_shard(tmp_path, old)

    def fail_while_writing(*given: Any, **options: Any) -> None:
        if at == "write_table":
            given[1].write_bytes(b"PAR1 and half of it")
        raise error

    monkeypatch.setattr(pq if at == "write_table" else os, at, fail_while_writing)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        snapshot_file.write_shard(tmp_path, shards_after_five_windows(1, 4)[0])
    if isinstance(error, OSError):
        assert "shard-0000-of-0001.parquet: the state cannot be written (No space left" in str(caught.value)
    monkeypatch.undo()
    assert_equal(snapshot_file.read_shard(tmp_path, 0, 1), old)
    assert state_table.read(tmp_path).closed_through == START + 1
    snapshot_file.write_shard(tmp_path, shards_after_five_windows(1, 4)[0])
    assert state_table.read(tmp_path).closed_through == START + 3


def test_a_snapshot_and_its_rename_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        done.append("sync " + ("hidden" if name.startswith(".") else name))
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    snapshot_file.write_shard(tmp_path / "state", shards_after_five_windows(1)[0])
    assert done == [f"sync {tmp_path.name}", "sync hidden", "rename", "sync state"]


def test_a_run_that_lost_ownership_replaces_no_snapshot(tmp_path: Path) -> None:
    (lost,), (next_,) = shards_after_five_windows(1, 2), shards_after_five_windows(1, 4)

    def lose_the_folder() -> bool:
        assert snapshot_file.write_shard(tmp_path, next_)  # another run writes its snapshot first
        return False

    assert not snapshot_file.write_shard(tmp_path, lost, lose_the_folder)
    assert_equal(snapshot_file.read_shard(tmp_path, 0, 1), next_)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-0000-of-0001.parquet"]


def test_two_writers_of_one_snapshot_use_different_temporary_files(tmp_path: Path) -> None:
    (old,), (new,) = shards_after_five_windows(1, 2), shards_after_five_windows(1, 4)
    assert snapshot_file.write_shard(tmp_path, old, lambda: snapshot_file.write_shard(tmp_path, new))
    assert_equal(snapshot_file.read_shard(tmp_path, 0, 1), old)


def test_a_flipped_bit_never_changes_offsets_or_counts_unnoticed(tmp_path: Path) -> None:
    """Reading a snapshot with its series detects each flipped bit, if the checksum can be found.

    A reader finds the checksum by the 26 bytes before it.
    """
    (shard,) = shards_after_five_windows(1)
    snapshot_file.write_shard(tmp_path, shard)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place, data in flipped(whole, random.Random(7), 600):
        path.write_bytes(data)
        for series in (True, False):
            found: list[Shard] = []
            line = line_of(lambda series=series: snapshot_file.read_file(path, series=series), found)  # type: ignore[misc]
            assert line is None or (line.startswith(f"{path}: ") and "\n" not in line)
            assert not series or line is not None or _removes_checksum(whole, place)
            for one in found:
                assert (one.offsets, one.counts) == (shard.offsets, shard.counts)


def _removes_checksum(whole: bytes, place: int) -> bool:
    """Return True if a reader cannot find the checksum of a file whose byte at ``place`` is damaged.

    A reader finds the checksum by the 26 bytes before it: its key, the type and length of its value, and
    ``crc32:``. If one of them is damaged, the file is read without a check, as files of earlier versions are.
    """
    return 0 <= place - whole.index(b"statecast.checksum") < 26


def test_a_file_mixed_from_two_snapshots_is_refused(tmp_path: Path) -> None:
    for name, closed in (("a", 2), ("b", 4)):
        snapshot_file.write_shard(tmp_path / name, shards_after_five_windows(1, closed)[0])
    a, b = ((tmp_path / name / "shard-0000-of-0001.parquet").read_bytes() for name in "ab")
    mixed = tmp_path / "a" / "shard-0000-of-0001.parquet"
    mixed.write_bytes(a[: len(b) // 2] + b[len(b) // 2 :])
    with pytest.raises(DataError, match="checksum does not match: put back a copy"):
        snapshot_file.read_shard(tmp_path / "a", 0, 1)


def test_a_snapshot_without_a_file_checksum_is_read(tmp_path: Path) -> None:
    (shard,) = shards_after_five_windows(1)
    path = tmp_path / "shard-0000-of-0001.parquet"
    pq.write_table(snapshot.to_arrow(shard), path)  # only `snapshot_file` adds a checksum
    assert b"statecast.checksum" not in path.read_bytes()
    assert_equal(snapshot_file.read_shard(tmp_path, 0, 1), shard)
