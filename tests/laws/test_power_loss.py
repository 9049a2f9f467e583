"""Law: a kill or a loss of power between any two file operations loses nothing that was there before."""

from __future__ import annotations

from pathlib import Path

from pipelines import snapshot_file, state_table
from pipelines.sinks.replacing import end_replacing, replace_parts
from pipelines.storage import sync_folder
from tests.power import PowerLoss, Tree
from tests.shards import some

PARTS = ("forecasts", "late", "state")


def make(folder: Path, parts: tuple[str, ...], text: str) -> None:
    """The parts that a job leaves: their files are synced, as those before its last snapshot are."""
    for part in parts:
        (folder / part).mkdir(parents=True)
        for name in ("a", "b"):
            (folder / part / name).write_text(text)
            sync_folder(folder / part / name)
        sync_folder(folder / part)


def parts_of(output: Path) -> dict[str, str]:
    return {
        part: "".join((output / part / name).read_text() for name in ("a", "b"))
        for part in PARTS
        if (output / part).exists()
    }


def test_replaced_parts_are_all_old_or_all_new(tmp_path: Path) -> None:
    output, hidden = tmp_path / "out", tmp_path / "out" / ".backfill"
    make(output, ("forecasts", "state"), "old")
    power = PowerLoss(output)
    with power.recorded():
        make(hidden, PARTS, "new")
        replace_parts(hidden, output, PARTS)
    for left in power.left:
        power.put_back(left)
        end_replacing(hidden, output)
        assert parts_of(output) in (
            {"forecasts": "oldold", "state": "oldold"},
            dict.fromkeys(PARTS, "newnew"),
        ), left.keys()
        assert not hidden.exists()


def test_an_interrupted_recovery_is_completed_by_the_next(tmp_path: Path) -> None:
    output, hidden = tmp_path / "out", tmp_path / "out" / ".backfill"
    make(output, ("forecasts", "state"), "old")
    make(hidden, PARTS, "new")
    first = PowerLoss(output)
    with first.recorded():
        replace_parts(hidden, output, PARTS)
    for left in first.left:
        first.put_back(left)
        power = PowerLoss(output)
        with power.recorded():
            end_replacing(hidden, output)
        kept: list[Tree] = power.left
        for again in kept:
            power.put_back(again)
            end_replacing(hidden, output)
            assert parts_of(output) in (
                {"forecasts": "oldold", "state": "oldold"},
                dict.fromkeys(PARTS, "newnew"),
            )


def test_a_table_that_is_written_anew_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    states = tmp_path / "out" / "state"
    state_table.write(states, some(1, 2))
    (states / "folder.jsonl").write_text("{}\n")
    sync_folder(states / "folder.jsonl")
    sync_folder(states)
    power = PowerLoss(tmp_path / "out")
    with power.recorded():
        state_table.write(states, some(2, 4), also=states)
    for left in power.left:
        power.put_back(left)
        state_table.recover(states)
        table = state_table.read(states)
        assert (len(table.shards), (states / "folder.jsonl").read_text()) in ((1, "{}\n"), (2, "{}\n"))


def test_the_last_snapshot_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    (old,), (new,) = some(1, 2), some(1, 4)
    snapshot_file.write_shard(tmp_path / "state", old)
    power = PowerLoss(tmp_path)
    with power.recorded():
        snapshot_file.write_shard(tmp_path / "state", new)
    for left in power.left:
        power.put_back(left)
        found = snapshot_file.read_shard(tmp_path / "state", 0, 1)
        assert found.closed_through in (old.closed_through, new.closed_through)
    assert found.closed_through == new.closed_through
