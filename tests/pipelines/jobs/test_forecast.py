from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster.counts import Counts
from forecaster.windows import Windows
from pipelines import state_table
from pipelines.config import Columns
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import PARTS, Format, read_forecasts, read_late, read_quarantine
from pipelines.sinks.folder import locked
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Step
from pipelines.sources.files import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.replay import ReplaySource
from pipelines.storage import Location
from schemas.errors import DataError, OutputError
from tests.fleets import HOUR, START, assert_same_frames, forecaster, nested, rows_of
from tests.stores import on_disk

ALL = Input(Columns())
UNITS = {"a": 1.0, "b": 1.0, "c": 1.0}


def contents(place: Location) -> dict[str, bytes]:
    folder = on_disk(place)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Location) -> list[str]:
    """What a job should have cleared away; its numbers and how its shards ended stay, for who looks later."""
    kept = (".numbers", ".run", ".ended-")
    return [p.name for p in folder.glob(".*") if not p.name.startswith(kept)]


# --- backfill ----------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> BackfillJob:
    """A backfill of three series of ten windows in two files."""
    values = pl.Series(range(30)).cast(pl.Float64).to_numpy().reshape(10, 3).copy()
    rows = rows_of(Windows(("a", "b", "c"), START, values))
    files = tmp_path / "1.parquet", tmp_path / "2.csv"
    rows.head(15).write_parquet(files[0])
    rows.tail(15).write_csv(files[1])
    return BackfillJob(forecaster(), tuple(map(str, files)), ALL, tmp_path / "out", shards=2)


def test_a_backfill_forecasts_every_window_and_leaves_a_state_table(job: BackfillJob) -> None:
    outcome = run_backfill(job)
    assert outcome.counts == Counts(rows_in=30, used=30, series_steps=30, windows=10)
    assert not outcome.stopped
    assert not outcome.has_latency
    assert len(read_forecasts(job.output)) == 30
    table = state_table.read(job.states)
    assert table.closed_through == START + 9
    assert sorted(table.state.series_ids) == ["a", "b", "c"]


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_backfill_that_runs_again_writes_the_same_files(job: BackfillJob, format_: Format) -> None:
    run_backfill(replace(job, format=format_))
    before = {kind: contents(job.output / kind) for kind in ("forecasts", "state")}
    run_backfill(replace(job, format=format_))
    assert {kind: contents(job.output / kind) for kind in ("forecasts", "state")} == before


def test_forecasts_as_json_lines_are_those_of_parquet(job: BackfillJob) -> None:
    frames = []
    for format_ in ("parquet", "jsonl"):
        run_backfill(replace(job, format=format_))
        frames.append(read_forecasts(job.output))
        assert {path.suffix for path in (job.output / "forecasts").glob("*")} == {f".{format_}"}
    assert frames[0].equals(frames[1])


def test_a_backfill_replaces_what_an_earlier_one_wrote(job: BackfillJob) -> None:
    run_backfill(replace(job, shards=5))
    run_backfill(replace(job, paths=job.paths[:1], shards=1, windows_per_step=3, format="jsonl"))
    names = [path.name for path in (job.output / "forecasts").glob("*")]
    assert len(names) == 2
    assert all(name.endswith("-shard-0000-of-0001.jsonl") for name in names)
    assert [path.name for path in job.states.glob("*.parquet")] == ["shard-0000-of-0001.parquet"]
    assert not hidden(job.output)


def test_the_windows_of_a_step_and_the_lanes_are_of_no_matter(job: BackfillJob) -> None:
    frames = []
    for windows_per_step, lanes in ((1, 1), (100, 3)):
        run_backfill(replace(job, windows_per_step=windows_per_step, lanes=lanes))
        frames.append(nested(read_forecasts(job.output)))
    for name in ("q5", "q50", "q95"):
        assert (frames[0][name] - frames[1][name]).abs().max() == pytest.approx(0, abs=1e-5)


def test_progress_is_told_and_its_last_is_the_whole(job: BackfillJob) -> None:
    told: list[JobNumbers] = []
    outcome = run_backfill(job, told.append)
    assert told[-1] == outcome.numbers
    assert told[-1].counts == outcome.counts
    assert (told[-1].series, told[-1].live) == (3, 3)
    assert told[-1].closed_us == (START + 10) * 3_600_000_000


def test_bad_rows_are_quarantined_with_their_place(job: BackfillJob, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    time = "2013-01-01T03:10:00Z"
    bad.write_text(f"series_id,timestamp,value\na,{time},much\nb,{time},1\n,,\n")
    counts = run_backfill(replace(job, paths=(*job.paths, str(bad)))).counts
    assert (counts.rows_in, counts.used, counts.rejected, counts.missing) == (33, 31, 2, 0)
    assert counts.quarantined == {"is not a number": 1, "series_id is missing": 1}
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


def test_a_file_that_cannot_be_read_is_quarantined_and_counted_where_that_is_asked_for(
    job: BackfillJob, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\nx,y,z\n")
    skipping = replace(ALL, skip_bad_files=True)
    counts = run_backfill(replace(job, paths=(str(bad), *job.paths), input=skipping)).counts
    assert counts == Counts(rows_in=30, used=30, series_steps=30, windows=10, bad_files=1)
    (row,) = read_quarantine(job.output).to_dicts()
    assert (row["file"], row["row"]) == (str(bad), 0)
    assert row["reason"].startswith("no column timestamp")


def test_a_state_table_that_is_not_there_is_said_before_anything_is_deleted(
    job: BackfillJob, tmp_path: Path
) -> None:
    run_backfill(job)
    with pytest.raises(DataError, match="holds no state table"):
        run_backfill(replace(job, state_table=tmp_path / "nowhere"))
    assert len(read_forecasts(job.output)) == 30


def test_a_job_may_start_from_the_table_that_it_replaces(job: BackfillJob) -> None:
    run_backfill(replace(job, paths=job.paths[:1]))
    counts = run_backfill(replace(job, state_table=job.states, shards=3)).counts
    assert counts.missing == 0
    assert (counts.rows_in, counts.late, counts.used) == (30, 15, 15)
    assert len(read_late(job.output)) == 15
    assert state_table.read(job.states).closed_through == START + 9


def test_an_output_folder_that_cannot_be_is_said(job: BackfillJob) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
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


def test_a_shard_without_a_series_is_no_harm(job: BackfillJob) -> None:
    assert run_backfill(replace(job, shards=50)).counts.used == 30
    assert len(list(job.states.glob("shard-*-of-0050.parquet"))) == 50


def test_a_backfill_that_fails_leaves_what_was_there(job: BackfillJob, tmp_path: Path) -> None:
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
def test_a_backfill_that_fails_on_an_engine_leaves_what_was_there_and_the_engines_log(
    job: BackfillJob, tmp_path: Path
) -> None:
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
def test_putting_in_place_that_is_interrupted_anywhere_leaves_what_was_there(
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
    with pytest.raises((OutputError, KeyboardInterrupt)) as told:
        run_backfill(replace(job, shards=5, paths=job.paths[:1]))
    assert isinstance(error, KeyboardInterrupt) or "cannot be put in place" in str(told.value)
    assert len(moves) > at
    assert contents(job.output) == before
    assert not hidden(job.output)


@pytest.mark.parametrize("renames", range(8))
def test_a_backfill_that_died_among_its_renames_is_ended_by_the_next_job(
    job: BackfillJob, tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backfill(replace(job, output=tmp_path / "whole"))
    run_backfill(replace(job, shards=5, paths=job.paths[:1]))
    real, kept, made = os.replace, tmp_path / "kept", 0

    def die(source: Any, target: Any) -> None:
        nonlocal made
        if {Path(source).parent.name, Path(target).parent.name} == {".backfill", "out"} and not kept.exists():
            if made == renames:
                shutil.copytree(on_disk(job.output), kept)  # as the disk was when the process died
            made += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", die)
    run_backfill(job)
    monkeypatch.undo()
    shutil.rmtree(on_disk(job.output))
    kept.rename(on_disk(job.output))

    nothing = tmp_path / "nothing.csv"
    nothing.write_text("what\n")
    with pytest.raises(DataError):
        run_backfill(replace(job, paths=(str(nothing),)))
    assert not hidden(job.output)
    for part in (*PARTS, "state"):
        assert contents(job.output / part) == contents(tmp_path / "whole" / part), part
    assert len(read_forecasts(job.output)) == 30


def test_a_backfill_that_died_among_its_renames_is_ended_by_a_stream_too(
    job: BackfillJob, tmp_path: Path
) -> None:
    run_backfill(replace(job, output=tmp_path / "new"))
    run_backfill(replace(job, paths=job.paths[:1]))
    (tmp_path / "new").rename(on_disk(job.output) / ".backfill")
    (on_disk(job.output) / ".backfill" / "complete").write_text("\n".join((*PARTS, "state")))
    (tmp_path / "in").mkdir()
    source = FolderSource(tmp_path / "in", ALL, job.states)
    stream = StreamJob(job.forecaster, source, job.output, shards=2, resume=True, runner="in-process")
    run_stream(stream, lambda numbers: ask_to_stop(stream.stop_file))
    assert state_table.read(job.states).closed_through == START + 9
    assert len(read_forecasts(job.output)) == 30
    assert not hidden(job.output)


# --- stream ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopping:
    """A source that has its job asked to stop once it has read so far."""

    source: ReplaySource
    stop_file: Location
    at: int

    @property
    def partition(self) -> str:
        return self.source.partition

    @property
    def is_paced(self) -> bool:
        return self.source.is_paced

    def step(self, offset: int) -> Step | None:
        step = self.source.step(offset)
        if step is not None and step.offset >= self.at:
            ask_to_stop(self.stop_file)
        return step


@dataclass(frozen=True)
class Breaking(Stopping):
    """A source that fails instead, which leaves its job as a kill would: at its last snapshots."""

    def step(self, offset: int) -> Step | None:
        if offset >= self.at:
            raise DataError("the cable was pulled")
        return self.source.step(offset)


@pytest.fixture(params=["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def runner(request: pytest.FixtureRequest) -> Runner:
    found: Runner = request.param
    return found


@pytest.fixture
def replayed(tmp_path: Path) -> StreamJob:
    """A replay of three series of twenty windows, in steps of six, in process."""
    values = np.random.default_rng(0).normal(size=(20, 3))
    rows_of(Windows(("a", "b", "c"), START, values)).write_parquet(tmp_path / "rows.parquet")
    return into(tmp_path / "out", tmp_path / "rows.parquet")


def into(output: Path, path: Path) -> StreamJob:
    source = ReplaySource((str(path),), ALL, HOUR, windows_per_step=6, manifest_folder=output / "state")
    return StreamJob(forecaster(), source, output, shards=2, runner="in-process")


def replay_of(job: StreamJob) -> ReplaySource:
    assert isinstance(job.source, ReplaySource)
    return job.source


def stopping(job: StreamJob, at: int) -> StreamJob:
    return replace(job, source=Stopping(replay_of(job), job.stop_file, at))


def breaking(job: StreamJob, at: int, every_s: float = 1e-9) -> StreamJob:
    """With a snapshot asked for after each step."""
    return replace(
        job, source=Breaking(replay_of(job), job.stop_file, at), snapshot_every_s=every_s, resume=True
    )


def watching(job: StreamJob, folder: Path, skip_bad_files: bool = False) -> StreamJob:
    how = replace(ALL, skip_bad_files=skip_bad_files)
    return replace(job, source=FolderSource(folder, how, job.states, poll_s=0.05))


def stop_when(job: StreamJob, condition: Callable[[JobNumbers], bool]) -> Callable[[JobNumbers], None]:
    deadline_s = time.monotonic() + 60

    def look(numbers: JobNumbers) -> None:
        if condition(numbers) or time.monotonic() > deadline_s:
            ask_to_stop(job.stop_file)

    return look


def put(folder: Path, name: str, rows: pl.DataFrame | str) -> None:
    folder.mkdir(exist_ok=True)
    if isinstance(rows, str):
        (folder / name).write_text(rows)
    else:
        rows.write_parquet(folder / name)
    os.utime(folder / name, (0, 0))  # settled


def test_a_replay_streams_to_its_end_and_a_rerun_writes_the_same_files(
    replayed: StreamJob, runner: Runner
) -> None:
    job, told = replace(replayed, runner=runner), list[JobNumbers]()
    outcome = run_stream(job, told.append)
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert not outcome.stopped
    assert told[-1].counts == outcome.counts
    assert not outcome.has_latency  # there is only a backlog
    assert len(read_forecasts(job.output)) == 60
    table = state_table.read(job.states)
    assert table.closed_through == START + 19
    assert table.offset("replay") == 60
    assert not hidden(job.output)

    before = contents(job.output / "forecasts")
    run_stream(job)
    assert contents(job.output / "forecasts") == before


def test_a_replay_that_is_over_is_resumed_to_nothing_and_keeps_state_and_counts(
    replayed: StreamJob, runner: Runner
) -> None:
    first = run_stream(replayed)
    before = state_table.read(replayed.states)
    outcome = run_stream(replace(replayed, resume=True, runner=runner))
    assert outcome.counts == first.counts
    after = state_table.read(replayed.states)
    assert after.offset("replay") == before.offset("replay") == 60
    assert after.closed_through == before.closed_through
    assert sorted(after.state.series_ids) == ["a", "b", "c"]


def test_a_paced_replay_tells_its_latency(replayed: StreamJob, runner: Runner) -> None:
    source = replace(replay_of(replayed), speed=3600.0 * 20)
    outcome = run_stream(replace(replayed, source=source, runner=runner))
    assert outcome.counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert outcome.has_latency  # one a batch and shard
    assert 0 < outcome.latency_ms(0.5) <= outcome.latency_ms(0.99)
    assert outcome.as_json()["p99_ms"] == outcome.latency_ms(0.99)


def test_a_watched_folder_that_is_empty_at_first_is_waited_for(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder, looks = tmp_path / "in", 0
    folder.mkdir()
    job = watching(replace(replayed, runner=runner), folder)

    def arrived(numbers: JobNumbers) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:  # nothing for more than a second, which an ended source would not outlast
            put(folder, "rows.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
        return numbers.counts.series_steps > 0

    outcome = run_stream(job, stop_when(job, arrived))
    assert looks > 3
    assert outcome.stopped
    assert outcome.counts.rows_in == 60
    assert outcome.counts.pending == 3  # the newest window stays open
    assert outcome.counts.missing == 0
    assert not job.stop_file.exists()


def test_a_bad_file_ends_the_stream_in_one_line_and_the_table_stays(
    replayed: StreamJob, tmp_path: Path, runner: Runner
) -> None:
    folder = tmp_path / "in"
    put(folder, "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, folder)
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    before = contents(job.states)
    put(folder, "2.csv", "what,is,this\nx,y,z\n")
    with pytest.raises(DataError, match=r"2\.csv: no column") as told:
        run_stream(replace(job, resume=True, runner=runner))
    assert "\n" not in str(told.value)
    assert contents(job.states) == before


def test_a_bad_file_is_quarantined_and_the_stream_goes_on_where_that_is_asked_for(
    replayed: StreamJob, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    put(folder, "1.csv", "what,is,this\nx,y,z\n")
    put(folder, "2.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, folder, skip_bad_files=True)
    counts = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0)).counts
    assert (counts.rows_in, counts.bad_files, counts.missing) == (60, 1, 0)
    assert read_quarantine(job.output)["row"].to_list() == [0]


def test_a_state_table_that_is_not_there_is_said_at_once(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state table"):
        run_stream(replace(replayed, state_table=tmp_path / "nowhere"))


def test_an_output_folder_that_cannot_be_is_said_at_once(replayed: StreamJob, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
        run_stream(replace(replayed, output=tmp_path / "rows.parquet" / "out"))


def test_a_second_job_on_a_folder_is_refused_in_one_line(replayed: StreamJob, job: BackfillJob) -> None:
    with locked(replayed.output):
        for run in (lambda: run_stream(replayed), lambda: run_backfill(job)):
            with pytest.raises(OutputError, match=r"out: another job, process \d+ .*is writing here") as told:
                run()
            assert "\n" not in str(told.value)
    assert run_stream(replayed).counts.used == 60


# --- going on ----------------------------------------------------------------------------------------------


@pytest.fixture
def whole(replayed: StreamJob, tmp_path: Path) -> pl.DataFrame:
    """The forecasts of a stream that nothing interrupted."""
    job = into(tmp_path / "whole", tmp_path / "rows.parquet")
    run_stream(job)
    return read_forecasts(job.output)


def assert_whole(job: StreamJob, counts: Counts, whole: pl.DataFrame) -> None:
    """Forecasts and counts are those of a stream that nothing interrupted, each forecast in one file."""
    assert counts == Counts(rows_in=60, used=60, series_steps=60, windows=20)
    assert_same_frames(read_forecasts(job.output), whole, UNITS)
    files = [
        path for path in on_disk(job.output / "forecasts").iterdir() if job.forecaster.version in path.name
    ]
    rows = [len(pl.read_parquet(f) if f.suffix == ".parquet" else pl.read_ndjson(f)) for f in files]
    assert sum(rows) == 60


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_stream_that_was_stopped_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format
) -> None:
    job = replace(replayed, format=format_, resume=True)  # where there is no table, it starts
    stopped = run_stream(stopping(job, 30))
    assert stopped.stopped
    assert stopped.counts.rows_in == 36
    assert stopped.counts.missing == 0
    assert_whole(job, run_stream(job).counts, whole)


def test_a_stream_that_was_stopped_goes_on_on_another_engine(
    replayed: StreamJob, whole: pl.DataFrame, runner: Runner
) -> None:
    run_stream(stopping(replace(replayed, runner=runner), 30))
    job = replace(replayed, resume=True, runner="prism" if runner == "in-process" else "in-process")
    if job.runner == runner:
        pytest.skip("the other way round")
    assert_whole(job, run_stream(job).counts, whole)


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
@pytest.mark.parametrize("at", [1, 30, 40, 55])
@pytest.mark.parametrize("every_s", [1e-9, 1e9])
def test_a_stream_that_was_killed_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format, at: int, every_s: float
) -> None:
    job = replace(replayed, format=format_, resume=True)
    for _ in range(2):
        with pytest.raises(DataError, match="the cable was pulled"):
            run_stream(breaking(job, at, every_s))
    assert_whole(job, run_stream(job).counts, whole)


@pytest.mark.prism
def test_a_stream_that_was_killed_on_prism_goes_on_by_the_same_command(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    job = replace(replayed, resume=True, runner="prism")
    with pytest.raises(DataError, match="the cable was pulled"):
        run_stream(breaking(job, 40))
    assert_whole(job, run_stream(job).counts, whole)


def apart(job: StreamJob) -> None:
    """Leaves a table as a kill does: one shard's snapshot is older than the others'."""
    run_stream(stopping(job, 10))
    older = job.states / "shard-0001-of-0002.parquet"
    data = older.read_bytes()
    run_stream(stopping(replace(job, resume=True), 30))
    older.write_bytes(data)
    table = state_table.read(job.states)
    assert [shard.offsets["replay"] for shard in table.shards] == [36, 18]


def test_shards_whose_snapshots_are_of_several_moments_go_on_together(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    apart(replayed)
    assert_whole(replayed, run_stream(replace(replayed, resume=True)).counts, whole)


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_another_number_of_shards_is_cut_anew_after_a_clean_stop(
    replayed: StreamJob, whole: pl.DataFrame, shards: int
) -> None:
    run_stream(stopping(replayed, 30))
    job = replace(replayed, shards=shards, resume=True)
    assert_whole(job, run_stream(job).counts, whole)
    assert len(list(job.states.glob("*.parquet"))) == shards


def test_another_number_of_shards_is_refused_after_a_kill_with_the_line_that_says_how(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    apart(replayed)
    before = contents(replayed.output)
    with pytest.raises(DataError, match=r"killed: go on with --resume and 2 shards, end that job") as told:
        run_stream(replace(replayed, shards=3, resume=True))
    assert "\n" not in str(told.value)
    assert contents(replayed.output) == before
    run_stream(stopping(replace(replayed, resume=True), 40))
    job = replace(replayed, shards=3, resume=True)
    assert_whole(job, run_stream(job).counts, whole)


def test_without_resume_a_stream_begins_anew(replayed: StreamJob, whole: pl.DataFrame) -> None:
    run_stream(stopping(replayed, 30))
    assert_whole(replayed, run_stream(replayed).counts, whole)


def test_a_stream_that_began_anew_in_one_process_can_be_stopped_and_resumed(
    replayed: StreamJob, whole: pl.DataFrame
) -> None:
    run_stream(stopping(replayed, 30))
    run_stream(stopping(replayed, 20))
    assert_whole(replayed, run_stream(replace(replayed, resume=True)).counts, whole)


def test_a_watched_folder_is_read_anew_by_a_stream_that_begins_anew(
    replayed: StreamJob, tmp_path: Path
) -> None:
    put(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, tmp_path / "in")
    for _ in range(2):
        outcome = run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
        assert (outcome.counts.rows_in, outcome.counts.used, outcome.counts.pending) == (60, 57, 3)


def test_rows_that_waited_are_handed_over_by_a_table(replayed: StreamJob, tmp_path: Path) -> None:
    put(tmp_path / "in", "1.parquet", pl.read_parquet(replay_of(replayed).paths[0]))
    job = watching(replayed, tmp_path / "in")
    run_stream(job, stop_when(job, lambda numbers: numbers.counts.series_steps > 0))
    rows_of(Windows(("a",), START + 20, np.ones((2, 1)))).write_parquet(tmp_path / "rest.parquet")
    rest = replace(into(tmp_path / "rest", tmp_path / "rest.parquet"), state_table=job.states, shards=3)
    counts = run_stream(rest).counts
    assert (counts.rows_in, counts.restored, counts.used, counts.missing) == (2, 3, 5, 0)
    assert len(read_forecasts(rest.output)) == 3 * 3


def test_files_that_are_not_those_of_the_replay_are_refused_when_it_goes_on(
    replayed: StreamJob, tmp_path: Path
) -> None:
    run_stream(stopping(replayed, 30))
    before = contents(replayed.states)
    pl.read_parquet(tmp_path / "rows.parquet").head(50).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: the files are not those .* begun with") as told:
        run_stream(replace(replayed, resume=True))
    assert "\n" not in str(told.value)
    assert contents(replayed.states) == before
    assert run_stream(replayed).counts.used == 50


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_two_models_write_into_one_folder_and_neither_loses_a_forecast(
    replayed: StreamJob, whole: pl.DataFrame, format_: Format
) -> None:
    first = replace(replayed, format=format_)
    second = replace(first, forecaster=forecaster(seed=1), resume=True)
    run_stream(first)
    shutil.rmtree(on_disk(first.states))  # the second begins cold, where the first one's files are
    with pytest.raises(DataError, match="the cable was pulled"):
        run_stream(breaking(second, 40))
    run_stream(second)
    both = read_forecasts(first.output)
    assert sorted(both["model_version"].unique()) == sorted(
        {first.forecaster.version, second.forecaster.version}
    )
    assert len(both) == 120
    assert_same_frames(both.filter(pl.col("model_version") == first.forecaster.version), whole, UNITS)
