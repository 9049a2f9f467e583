from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecaster.windows import Windows
from pipelines import state_table
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.jobs.outcome import Counts
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sources.feeds import Input
from pipelines.sources.tables import Columns
from schemas.errors import DataError, OutputError
from tests.fleets import START, forecaster, nested, rows_of

ALL = Input(Columns())


@pytest.fixture
def job(tmp_path: Path) -> BackfillJob:
    """A backfill of three series of ten windows in two files."""
    values = pl.Series(range(30)).cast(pl.Float64).to_numpy().reshape(10, 3).copy()
    rows = rows_of(Windows(("a", "b", "c"), START, values))
    files = tmp_path / "1.parquet", tmp_path / "2.csv"
    rows.head(15).write_parquet(files[0])
    rows.tail(15).write_csv(files[1])
    return BackfillJob(forecaster(), tuple(map(str, files)), ALL, tmp_path / "out", shards=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def test_a_backfill_forecasts_every_window_and_leaves_a_state_table(job: BackfillJob) -> None:
    outcome = run_backfill(job)
    assert outcome.counts == Counts(rows_in=30, used=30, series_steps=30)
    assert not outcome.stopped
    assert len(read_forecasts(job.output)) == 30
    table = state_table.read(job.states)
    assert table.closed_through == START + 9
    assert table.state is not None
    assert sorted(table.state.series_ids) == ["a", "b", "c"]


def test_a_backfill_that_runs_again_writes_the_same_files(job: BackfillJob) -> None:
    run_backfill(job)
    before = {kind: contents(job.output / kind) for kind in ("forecasts", "state")}
    run_backfill(job)
    assert {kind: contents(job.output / kind) for kind in ("forecasts", "state")} == before


def test_a_backfill_replaces_what_an_earlier_one_wrote(job: BackfillJob) -> None:
    run_backfill(replace(job, shards=5))
    run_backfill(replace(job, paths=job.paths[:1], shards=1, windows_per_step=3, format="jsonl"))
    names = [path.name for path in (job.output / "forecasts").iterdir()]
    assert len(names) == 2
    assert all(name.endswith("-shard-0000.jsonl") for name in names)
    assert len(list((job.states / "series").iterdir())) == 1
    assert not [path.name for path in job.output.iterdir() if path.name.startswith(".")]


def test_the_windows_of_a_step_are_of_no_matter(job: BackfillJob) -> None:
    frames = []
    for windows_per_step in (1, 100):
        run_backfill(replace(job, windows_per_step=windows_per_step))
        frames.append(nested(read_forecasts(job.output)))
    for name in ("q10", "q50", "q90"):
        assert (frames[0][name] - frames[1][name]).abs().max() == pytest.approx(0, abs=1e-5)


def test_progress_is_told_as_forecasts_are_written(job: BackfillJob) -> None:
    told: list[dict[str, Any]] = []
    run_backfill(job, told.extend)
    assert sum(line["steps"] for line in told) == 30


def test_bad_rows_are_quarantined_with_their_place(job: BackfillJob, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    time = "2013-01-01T03:10:00Z"
    bad.write_text(f"series_id,timestamp,value\na,{time},much\nb,{time},1\n,,\n")
    outcome = run_backfill(replace(job, paths=(*job.paths, str(bad))))
    assert outcome.counts == Counts(rows_in=33, used=31, quarantined=2, series_steps=30)
    places = read_quarantine(job.output).select("file", "row", "column").rows()
    assert places == [(str(bad), 1, "value"), (str(bad), 3, "series_id")]


def test_a_file_that_cannot_be_read_ends_the_backfill_in_one_line(job: BackfillJob, tmp_path: Path) -> None:
    run_backfill(job)
    before = contents(job.states)
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"bad\.csv: no column") as told:
        run_backfill(replace(job, paths=(*job.paths, str(bad))))
    assert "\n" not in str(told.value)
    assert contents(job.states) == before  # the table of the job that ended well


def test_a_file_that_cannot_be_read_is_skipped_and_counted_where_that_is_asked_for(
    job: BackfillJob, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    skipping = Input(Columns(), skip_bad_files=True)
    counts = run_backfill(replace(job, paths=(str(bad), *job.paths), input=skipping)).counts
    assert counts == Counts(rows_in=30, used=30, series_steps=30, bad_files=1)


def test_a_state_table_that_is_not_there_is_said_before_anything_is_deleted(
    job: BackfillJob, tmp_path: Path
) -> None:
    run_backfill(job)
    with pytest.raises(DataError, match="holds no state table"):
        run_backfill(replace(job, state_table=tmp_path / "nowhere"))
    assert len(read_forecasts(job.output)) == 30


def test_a_job_may_start_from_the_table_that_it_replaces(job: BackfillJob) -> None:
    run_backfill(replace(job, paths=job.paths[:1]))
    counts = run_backfill(replace(job, state_table=job.states)).counts
    assert counts.missing == 0
    assert counts.too_late == 15
    assert state_table.read(job.states).closed_through == START + 9


def test_an_output_folder_that_cannot_be_is_said(job: BackfillJob) -> None:
    with pytest.raises(OutputError, match="cannot write here"):
        run_backfill(replace(job, output=Path(job.paths[0]) / "out"))


def test_files_of_which_no_row_can_be_used_are_refused_and_change_nothing(
    job: BackfillJob, tmp_path: Path
) -> None:
    empty, bad = tmp_path / "empty.parquet", tmp_path / "bad.csv"
    pl.read_parquet(job.paths[0]).clear().write_parquet(empty)
    bad.write_text("series_id,timestamp,value\na,2013-01-01T00:00Z,much\n")
    with pytest.raises(DataError, match="the files hold no rows"):
        run_backfill(replace(job, paths=(str(empty),)))
    assert not job.output.exists()
    run_backfill(job)
    before = contents(job.output)
    with pytest.raises(DataError, match="1 are no observations; the first: 'much' is not a number"):
        run_backfill(replace(job, paths=(str(empty), str(bad))))
    assert contents(job.output) == before


def test_a_backfill_that_fails_leaves_what_was_there(
    job: BackfillJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    def interrupt(result: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.jobs.backfill.Counts.of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_backfill(replace(job, shards=5))
    assert contents(job.output) == before
    assert not [path.name for path in job.output.iterdir() if path.name.startswith(".")]


def test_a_shard_without_a_series_is_no_harm(job: BackfillJob) -> None:
    assert run_backfill(replace(job, shards=50)).counts.used == 30
    assert len(list((job.states / "series").iterdir())) == 50
