"""Tests that a backfill into the output folder of an earlier backfill replaces all of its output or none."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import PARTS, read_forecasts
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from schemas.errors import DataError, OutputError
from tests.fleets import START
from tests.outputs import contents, hidden
from tests.pipelines.jobs.replays import DEFAULT_INPUT
from tests.stores import on_disk


def test_a_backfill_replaces_an_earlier_backfill(job: BackfillJob) -> None:
    run_backfill(replace(job, shards=5))
    run_backfill(replace(job, paths=job.paths[:1], shards=1, windows_per_step=3, format="jsonl"))
    names = [path.name for path in (job.output / "forecasts").glob("*")]
    assert len(names) == 2
    assert all(name.endswith("-shard-0000-of-0001.jsonl") for name in names)
    assert [path.name for path in job.states.glob("*.parquet")] == ["shard-0000-of-0001.parquet"]
    assert not hidden(job.output)


def test_a_failed_backfill_keeps_the_earlier_output(job: BackfillJob, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    with pytest.raises(DataError):
        run_backfill(replace(job, paths=(*job.paths, str(bad))))
    assert not job.output.exists()
    run_backfill(job)
    before = contents(job.output)
    with pytest.raises(DataError):
        run_backfill(replace(job, paths=(str(bad),)))
    assert contents(job.output) == before

    def interrupt(numbers: JobNumbers) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backfill(replace(job, shards=5), interrupt)
    assert contents(job.output) == before
    assert not hidden(job.output)


@pytest.mark.prism
def test_failed_backfill_keeps_old_output_and_adds_its_prism_log(job: BackfillJob, tmp_path: Path) -> None:
    run_backfill(job)
    before = contents(job.output)
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"bad\.csv: no column"):
        run_backfill(replace(job, paths=(*job.paths, str(bad)), runner="prism"))
    after = contents(job.output)
    assert after.pop("prism.log", None) is not None
    assert after == before
    assert not hidden(job.output)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(8))
def test_a_backfill_failing_to_replace_earlier_output_restores_it(
    job: BackfillJob, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backfill(job)
    before = contents(job.output)
    moves: list[Path] = []
    real = os.replace

    def replace_or_fail(source: Any, target: Any) -> None:
        if {Path(source).parent.name, Path(target).parent.name} == {".backfill", "out"}:
            moves.append(Path(source))
            if len(moves) == at + 1:
                raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    with pytest.raises((OutputError, KeyboardInterrupt)) as raised:
        run_backfill(replace(job, shards=5, paths=job.paths[:1]))
    assert isinstance(error, KeyboardInterrupt) or "cannot be put in place" in str(raised.value)
    assert len(moves) > at
    assert contents(job.output) == before
    assert not hidden(job.output)


@pytest.mark.parametrize("renames", range(8))
def test_the_next_backfill_completes_an_interrupted_replacement(
    job: BackfillJob, tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backfill(replace(job, output=tmp_path / "whole"))
    run_backfill(replace(job, shards=5, paths=job.paths[:1]))
    real, crashed, count = os.replace, tmp_path / "crashed", 0

    def copy_at_crash(source: Any, target: Any) -> None:
        nonlocal count
        if {Path(source).parent.name, Path(target).parent.name} == {
            ".backfill",
            "out",
        } and not crashed.exists():
            if count == renames:
                # Copy the files that a crash would leave at this moment.
                shutil.copytree(on_disk(job.output), crashed)
            count += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", copy_at_crash)
    run_backfill(job)
    monkeypatch.undo()
    shutil.rmtree(on_disk(job.output))
    crashed.rename(on_disk(job.output))

    nothing = tmp_path / "nothing.csv"
    nothing.write_text("what\n")
    with pytest.raises(DataError):
        run_backfill(replace(job, paths=(str(nothing),)))
    assert not hidden(job.output)
    for part in (*PARTS, "state"):
        assert contents(job.output / part) == contents(tmp_path / "whole" / part), part
    assert len(read_forecasts(job.output)) == 30


def test_a_stream_completes_a_backfills_interrupted_replacement(job: BackfillJob, tmp_path: Path) -> None:
    run_backfill(replace(job, output=tmp_path / "new"))
    run_backfill(replace(job, paths=job.paths[:1]))
    (tmp_path / "new").rename(on_disk(job.output) / ".backfill")
    (on_disk(job.output) / ".backfill" / "complete").write_text("\n".join((*PARTS, "state")))
    (tmp_path / "in").mkdir()
    source = FolderSource(tmp_path / "in", DEFAULT_INPUT, job.states)
    stream = StreamJob(job.forecaster, source, job.output, shards=2, resume=True, runner="in-process")
    run_stream(stream, lambda numbers: request_stop(stream.stop_file))
    assert state_table.read(job.states).closed_through == START + 9
    assert len(read_forecasts(job.output)) == 30
    assert not hidden(job.output)
