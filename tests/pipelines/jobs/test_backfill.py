"""Tests of backfills: their outputs, their state table, and the inputs that they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from forecaster.shards.counts import Counts
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob
from pipelines.sinks.files import Format, read_forecasts, read_late, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.state import state_table
from schemas.errors import DataError, OutputError
from tests.comparisons import exploded
from tests.fleets import START
from tests.outputs import contents
from tests.pipelines.jobs.replays import DEFAULT_INPUT


def test_a_backfill_writes_all_forecasts_and_a_state_table(job: BackfillJob) -> None:
    outcome = run_backfill(job)
    assert outcome.counts == Counts(rows_in=30, used=30, series_steps=30, windows=10)
    assert not outcome.stopped
    assert not outcome.has_latency
    assert len(read_forecasts(job.output)) == 30
    table = state_table.read(job.states)
    assert table.closed_through == START + 9
    assert sorted(table.state.series_ids) == ["a", "b", "c"]


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_repeated_backfill_writes_the_same_files(job: BackfillJob, format_: Format) -> None:
    run_backfill(replace(job, format=format_))
    before = {kind: contents(job.output / kind) for kind in ("forecasts", "state")}
    run_backfill(replace(job, format=format_))
    assert {kind: contents(job.output / kind) for kind in ("forecasts", "state")} == before


def test_forecasts_in_json_lines_and_parquet_are_equal(job: BackfillJob) -> None:
    frames = []
    for format_ in ("parquet", "jsonl"):
        run_backfill(replace(job, format=format_))
        frames.append(read_forecasts(job.output))
        assert {path.suffix for path in (job.output / "forecasts").glob("*")} == {f".{format_}"}
    assert frames[0].equals(frames[1])


def test_forecasts_do_not_depend_on_windows_per_step_or_threads(job: BackfillJob) -> None:
    frames = []
    for windows_per_step, threads in ((1, 1), (100, 3)):
        run_backfill(replace(job, windows_per_step=windows_per_step, threads=threads))
        frames.append(exploded(read_forecasts(job.output)))
    for name in ("q5", "q50", "q95"):
        assert (frames[0][name] - frames[1][name]).abs().max() == pytest.approx(0, abs=1e-5)


def test_lanes_as_the_former_name_of_threads_still_works(job: BackfillJob) -> None:
    earlier = replace(job, lanes=7)
    assert earlier.threads == replace(earlier, shards=3).threads == 7


def test_the_last_progress_report_equals_the_job_outcome(job: BackfillJob) -> None:
    progress: list[JobNumbers] = []
    outcome = run_backfill(job, progress.append)
    assert progress[-1] == outcome.numbers
    assert progress[-1].counts == outcome.counts
    assert (progress[-1].series, progress[-1].live) == (3, 3)
    assert progress[-1].closed_us == (START + 10) * 3_600_000_000


def test_invalid_rows_are_quarantined_with_file_row_and_column(job: BackfillJob, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    time = "2013-01-01T03:10:00Z"
    bad.write_text(f"series_id,timestamp,value\na,{time},much\nb,{time},1\n,,\n")
    counts = run_backfill(replace(job, paths=(*job.paths, str(bad)))).counts
    assert (counts.rows_in, counts.used, counts.rejected, counts.missing) == (33, 31, 2, 0)
    assert counts.quarantined == {"is not a number": 1, "series_id is missing": 1}
    places = read_quarantine(job.output).select("file", "row", "column").rows()
    assert places == [(str(bad), 1, "value"), (str(bad), 3, "series_id")]


def test_a_backfill_fails_if_a_file_lacks_required_columns(job: BackfillJob, tmp_path: Path) -> None:
    run_backfill(job)
    before = contents(job.states)
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"bad\.csv: no column") as raised:
        run_backfill(replace(job, paths=(*job.paths, str(bad))))
    assert "\n" not in str(raised.value)
    assert contents(job.states) == before  # the earlier state table is unchanged


def test_a_backfill_with_skip_bad_files_quarantines_a_bad_file(job: BackfillJob, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    skipping = replace(DEFAULT_INPUT, skip_bad_files=True)
    counts = run_backfill(replace(job, paths=(str(bad), *job.paths), input=skipping)).counts
    assert counts == Counts(rows_in=30, used=30, series_steps=30, windows=10, bad_files=1)
    (row,) = read_quarantine(job.output).to_dicts()
    assert (row["file"], row["row"]) == (str(bad), 0)
    assert row["reason"].startswith("no column timestamp")


def test_backfill_from_a_missing_state_table_keeps_earlier_forecasts(
    job: BackfillJob, tmp_path: Path
) -> None:
    run_backfill(job)
    with pytest.raises(DataError, match="holds no state table"):
        run_backfill(replace(job, state_table=tmp_path / "nowhere"))
    assert len(read_forecasts(job.output)) == 30


def test_a_backfill_may_start_from_the_state_table_it_replaces(job: BackfillJob) -> None:
    run_backfill(replace(job, paths=job.paths[:1]))
    counts = run_backfill(replace(job, state_table=job.states, shards=3)).counts
    assert counts.missing == 0
    assert (counts.rows_in, counts.late, counts.used) == (30, 15, 15)
    assert len(read_late(job.output)) == 15
    assert state_table.read(job.states).closed_through == START + 9


def test_a_backfill_refuses_an_output_folder_below_a_file(job: BackfillJob) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
        run_backfill(replace(job, output=Path(job.paths[0]) / "out"))


def test_backfill_refuses_files_without_usable_rows(job: BackfillJob, tmp_path: Path) -> None:
    empty, bad = tmp_path / "empty.parquet", tmp_path / "bad.csv"
    pl.read_parquet(job.paths[0]).clear().write_parquet(empty)
    bad.write_text("series_id,timestamp,value\na,2013-01-01T00:00Z,much\n")
    with pytest.raises(DataError, match="the files hold no rows"):
        run_backfill(replace(job, paths=(str(empty),)))
    assert not job.output.exists()
    run_backfill(job)
    before = contents(job.output)
    with pytest.raises(DataError, match="1 were rejected; the first: 'much' is not a number"):
        run_backfill(replace(job, paths=(str(empty), str(bad))))
    assert contents(job.output) == before


def test_shards_without_series_are_allowed(job: BackfillJob) -> None:
    assert run_backfill(replace(job, shards=50)).counts.used == 30
    assert len(list(job.states.glob("shard-*-of-0050.parquet"))) == 50
