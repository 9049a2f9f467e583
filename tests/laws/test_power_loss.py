"""Law: a kill or a power loss between any two file operations loses no complete output file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from forecaster.durable import sync_path
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.model import Labeller, Task, untrained
from forecaster.reports.html import write_report
from forecaster.time.windows import Windows
from pipelines.examples.weather import write_example
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.manifest import check_replay
from pipelines.state import snapshot_file, state_file, state_table
from pipelines.storage import BACKFILL, Journal, complete_replacement, replace_parts
from pipelines.workers.ownership import read_owner, take_ownership
from pipelines.workers.step_settings import StepSettings
from tests.fleets import START, forecaster, rows_of
from tests.power import PowerLoss, Tree
from tests.shards import shards_after_five_windows

PARTS = ("forecasts", "late", "state")


def write_parts(folder: Path, parts: tuple[str, ...], text: str) -> None:
    """Write two files for each part of an output folder, and sync them to the disk as a job does."""
    for part in parts:
        (folder / part).mkdir(parents=True)
        for name in ("a", "b"):
            (folder / part / name).write_text(text)
            sync_path(folder / part / name)
        sync_path(folder / part)


def parts_of(output: Path) -> dict[str, str]:
    return {
        part: "".join((output / part / name).read_text() for name in ("a", "b"))
        for part in PARTS
        if (output / part).exists()
    }


def test_a_power_loss_does_not_mix_old_and_new_outputs(tmp_path: Path) -> None:
    output, hidden = tmp_path / "out", tmp_path / "out" / ".backfill"
    write_parts(output, ("forecasts", "state"), "old")
    power = PowerLoss(output)
    with power.record():
        write_parts(hidden, PARTS, "new")
        replace_parts(hidden, output, PARTS)
    for files in power.states:
        power.restore(files)
        complete_replacement(hidden, output)
        assert parts_of(output) in (
            {"forecasts": "oldold", "state": "oldold"},
            dict.fromkeys(PARTS, "newnew"),
        ), files.keys()
        assert not hidden.exists()


def test_interrupted_recovery_does_not_mix_old_and_new_outputs(tmp_path: Path) -> None:
    output, hidden = tmp_path / "out", tmp_path / "out" / ".backfill"
    write_parts(output, ("forecasts", "state"), "old")
    write_parts(hidden, PARTS, "new")
    first = PowerLoss(output)
    with first.record():
        replace_parts(hidden, output, PARTS)
    for files in first.states:
        first.restore(files)
        power = PowerLoss(output)
        with power.record():
            complete_replacement(hidden, output)
        kept: list[Tree] = power.states
        for again in kept:
            power.restore(again)
            complete_replacement(hidden, output)
            assert parts_of(output) in (
                {"forecasts": "oldold", "state": "oldold"},
                dict.fromkeys(PARTS, "newnew"),
            )


def test_a_power_loss_leaves_the_old_or_the_new_state_table(tmp_path: Path) -> None:
    states = tmp_path / "out" / "state"
    state_table.write(states, shards_after_five_windows(1, 2))
    (states / "folder.jsonl").write_text("{}\n")
    sync_path(states / "folder.jsonl")
    sync_path(states)
    power = PowerLoss(tmp_path / "out")
    with power.record():
        state_table.write(states, shards_after_five_windows(2, 4), also=states)
    for files in power.states:
        power.restore(files)
        state_table.recover(states)
        table = state_table.read(states)
        assert (len(table.shards), (states / "folder.jsonl").read_text()) in ((1, "{}\n"), (2, "{}\n"))


def test_a_power_loss_leaves_the_old_or_the_new_snapshot(tmp_path: Path) -> None:
    (old,), (new,) = shards_after_five_windows(1, 2), shards_after_five_windows(1, 4)
    snapshot_file.write_shard(tmp_path / "state", old)
    power = PowerLoss(tmp_path)
    with power.record():
        snapshot_file.write_shard(tmp_path / "state", new)
    for files in power.states:
        power.restore(files)
        found = snapshot_file.read_shard(tmp_path / "state", 0, 1)
        assert found.closed_through in (old.closed_through, new.closed_through)
    assert found.closed_through == new.closed_through


def test_a_power_loss_loses_no_record_added_to_a_journal(tmp_path: Path) -> None:
    path, power = tmp_path / "state" / "lines", PowerLoss(tmp_path)
    at_least: list[tuple[Tree, int]] = []
    with power.record():
        journal = Journal(path)
        for number in range(3):
            journal.add({"n": number})

            at_least += [(files, number) for files in power.states[len(at_least) :]]
        journal.replace({"n": number} for number in range(3))
    at_least += [(files, 3) for files in power.states[len(at_least) :]]
    for files, count in at_least:
        power.restore(files)
        found = [record["n"] for _, record in Journal(path).records()]
        assert found == [0, 1, 2][: len(found)]
        assert len(found) >= count
        Journal(path).add({"n": 9})
        assert [record["n"] for _, record in Journal(path).records()] == [*found, 9]


def test_a_power_loss_leaves_manifests_journals_and_exports_readable(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a")
    rows, place = [str(tmp_path / "rows.csv")], tmp_path / "place"
    output = place / "out"
    state_table.write(output / "state", shards_after_five_windows(2))
    series = len(state_table.read(output / "state").state)
    run = StepSettings("b" * 32, b"", 2, 1, output, "parquet", 1, resumed=False)
    power = PowerLoss(place)
    with power.record():
        check_replay(output / "state" / "replay.json", rows, "how", 0, 12.5)
        Decisions(output / "state" / "kafka.jsonl").raise_watermark("t-0", 0, 5)
        take_ownership(run)
        state_file.pack(output / "state", place / "table.parquet")
        assert state_table.copy_aside(output / "state") is not None
    for files in power.states:
        power.restore(files)
        assert check_replay(output / "state" / "replay.json", rows, "how", 0, 12.5) == 12.5
        assert Decisions(output / "state" / "kafka.jsonl").at("t-0", 0, None) in (5, None)
        assert read_owner(output) in (None, run.job)
        assert len(state_table.read(output / "state").state) == series
        if (place / "table.parquet").exists():
            assert state_file.unpack(place / "table.parquet", tmp_path / "again") == series
            shutil.rmtree(tmp_path / "again")
    (aside,) = output.glob("state-before-*")
    assert len(state_table.read(aside).state) == series


def test_a_power_loss_leaves_the_old_or_new_backfill_output(tmp_path: Path) -> None:
    output, rng = tmp_path / "out", np.random.default_rng(1)
    jobs = []
    for windows in (6, 9):
        path = tmp_path / f"{windows}.csv"
        rows_of(Windows(("a", "b"), START, rng.normal(size=(windows, 2)))).write_csv(path)
        jobs.append(BackfillJob(forecaster(), (str(path),), Input(Columns()), output, 2, 4))
    run_backfill(jobs[0])
    forecasts = [read_forecasts(output)]
    power = PowerLoss(output, (".lock", ".backfill/.numbers", ".numbers"), every_prefix=False)
    with power.record():
        run_backfill(jobs[1])
    forecasts.append(read_forecasts(output))
    seen = set()
    for files in power.states:
        power.restore(files)
        complete_replacement(output / BACKFILL, output)
        closed = state_table.read(output / "state").closed_through
        new = closed == START + 8
        assert new or closed == START + 5
        assert read_forecasts(output).equals(forecasts[new])
        seen.add(new)
    assert seen == {False, True}


def save_forecaster(folder: Path, which: int) -> None:
    forecaster(seed=which).save(folder)


def save_labeller(folder: Path, which: int) -> None:
    config = LabelConfig.model_validate({"hidden": 2, "layers": 1})
    task = Task.model_validate(
        {
            "of": "step",
            "channels": ("x",),
            "classes": ("a", "b")[: which + 1],
            "scaling": "running",
            "freq_s": 60,
        }
    )
    Labeller(config, task, untrained(config, task)).save(folder)


def save_report(folder: Path, which: int) -> None:
    write_report(folder / "report.html", title=f"Report {which}", facts={}, tables=(), figures=())


def save_example(folder: Path, which: int) -> None:
    frame = pl.DataFrame({"value": [float(which)]})
    with patch("pipelines.examples.weather.weather", lambda: frame):
        write_example("weather", folder)


@pytest.mark.parametrize("save", [save_forecaster, save_labeller, save_report, save_example])
def test_a_power_loss_leaves_no_partly_written_artifact(
    save: Callable[[Path, int], None], tmp_path: Path
) -> None:
    folder = tmp_path / "place" / "artifact"
    (tmp_path / "place").mkdir()
    wholes = []
    for which in (0, 1):
        with (power := PowerLoss(tmp_path / "place")).record():
            save(folder, which)
        (file,) = folder.iterdir()
        wholes.append(file.read_bytes())
        seen = set()
        for left in power.states:
            power.restore(left)
            seen.add(file.read_bytes() if file.exists() else None)
        assert seen == ({None, wholes[0]} if which == 0 else set(wholes))
        assert file.read_bytes() == wholes[which]
