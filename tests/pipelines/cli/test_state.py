"""A state table shown, packed into one file, and unpacked: nothing of it is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from forecaster.shards import snapshot
from forecaster.time.windows import Windows
from pipelines.cli.app import run
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.settings.config import Columns
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.folder import locked
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import PARTITION, FolderSource
from pipelines.sources.reader import ask_to_stop
from pipelines.state import state_table
from pipelines.storage import Location
from schemas.sealed import seal, unseal
from tests.fleets import START, forecaster, rows_of
from tests.outputs import contents
from tests.same import assert_same_frames, assert_same_state

NAMES = ("a", "b", "c", "d")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``statecast state ...`` in the test's folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str, str]:
        code = run(["state", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def put(folder: Path, name: str, first: int, stop: int) -> None:
    """A file of every series' rows of windows ``first`` to ``stop``."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(first).normal(size=(stop - first, len(NAMES)))
    rows_of(Windows(NAMES, START + first, values)).write_parquet(folder / f".{name}")
    (folder / f".{name}").rename(folder / name)


def watching(tmp_path: Path, output: str = "out") -> StreamJob:
    out = tmp_path / output
    source = FolderSource(tmp_path / "in", Input(Columns()), out / "state", poll_s=0.05)
    return StreamJob(forecaster(), source, out, shards=3, runner="in-process", resume=True)


def streamed(job: StreamJob, rows: int) -> None:
    """Streams until so many rows have been read in all, and stops."""

    def look(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in >= rows:
            ask_to_stop(job.stop_file)

    run_stream(job, look)


@pytest.fixture
def job(tmp_path: Path) -> StreamJob:
    """A stream that was stopped after ten windows, the newest of which is open."""
    put(tmp_path / "in", "1.parquet", 0, 10)
    job = watching(tmp_path)
    streamed(job, 40)
    return job


def test_what_a_table_holds_is_shown_to_people_and_machines(job: StreamJob, command: Command) -> None:
    code, said, _ = command("show", "out/state")
    assert code == 0
    for words in (
        job.forecaster.version,
        "4, of them 4 live",
        "2013-01-01T09:00:00+00:00",
        "40 in: 36 used, 0 duplicates, 0 late, 4 pending, 0 quarantined",
        "network",
        "ring",
    ):
        assert words in " ".join(said.split())

    told = json.loads(command("show", "out/state", "--json")[1])
    table = state_table.read(job.states)
    assert (told["series"], told["live"], told["pending"], told["shards"]) == (4, 4, 4, 3)
    assert told["model_version"] == job.forecaster.version
    assert told["closed_until"] == "2013-01-01T09:00:00+00:00"
    partition = told["partitions"][PARTITION]
    assert partition["offset"] == partition["furthest"] == 40
    assert partition["watermark"].startswith("2013-01-01T09:")
    state = table.state
    assert told["bytes_per_series"] == pytest.approx(state.bytes_by_component, abs=0.1)
    assert told["bytes_of_a_series"] == pytest.approx(state.bytes_per_series, abs=0.1)
    assert (told["counts"]["used"], told["counts"]["missing"]) == (36, 0)


def same_table(one: Location, other: Location) -> None:
    """Series by series the same, and so is all else."""
    first, second = (state_table.read(folder) for folder in (one, other))
    assert_same_state(first.state, second.state)
    assert first.pending.sort("series_id").equals(second.pending.sort("series_id"))
    assert first.closed_through == second.closed_through
    assert first.counts == second.counts
    assert {tuple(s.offsets.items()) for s in first.shards} == {
        tuple(s.offsets.items()) for s in second.shards
    }
    marks = [{tuple(s.watermarks.items()) for s in table.shards} for table in (first, second)]
    assert marks[0] == marks[1]


@pytest.mark.parametrize("shards", [None, 1, 5])
def test_a_table_that_is_packed_and_unpacked_is_the_same_in_any_number_of_shards(
    job: StreamJob, command: Command, tmp_path: Path, shards: int | None
) -> None:
    assert command("export", "out/state", "kept/a.parquet")[0] == 0
    rows = pl.read_parquet(tmp_path / "kept" / "a.parquet")
    assert sorted(rows["series_id"]) == list(NAMES)  # a row a series, for any reader
    assert rows["pending"].list.len().to_list() == [1, 1, 1, 1]
    asked = () if shards is None else ("--shards", str(shards))
    assert command("import", "kept/a.parquet", "other", *asked)[0] == 0
    same_table(job.states, tmp_path / "other")
    assert len(state_table.read(tmp_path / "other").shards) == (shards or 3)
    manifest = "folder.jsonl"
    assert (tmp_path / "other" / manifest).read_bytes() == (job.states / manifest).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "kept", "other", "out"]
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["a.parquet"]


def test_a_stream_that_is_resumed_from_an_imported_table_goes_on_exactly(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    assert command("import", "a.parquet", "new/state", "--shards", "2")[0] == 0
    put(tmp_path / "in", "2.parquet", 10, 20)
    elsewhere = watching(tmp_path, "new")
    for each in (job, elsewhere):
        streamed(each, 80)
    same_table(job.states, elsewhere.states)
    assert state_table.read(elsewhere.states).counts.rows_in == 80  # no row was read again
    before = read_forecasts(job.output)
    units = dict.fromkeys(NAMES, 1.0)
    since = before.filter(pl.col("issued_at") > before["issued_at"].unique().sort()[8])
    assert_same_frames(read_forecasts(elsewhere.output), since, units)
    assert len(since) == 4 * 10


def refused(told: tuple[int, str, str], code: int, line: str) -> None:
    assert told[0] == code, told
    assert told[1] == ""
    assert told[2].count("\n") == 1
    assert line in told[2]


def test_a_table_whose_shards_stand_apart_is_not_packed(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    older = {path: path.read_bytes() for path in job.states.glob("shard-0001*")}
    put(tmp_path / "in", "2.parquet", 10, 12)
    streamed(job, 48)
    for path, data in older.items():
        path.write_bytes(data)
    refused(command("export", "out/state", "a.parquet"), 3, "out/state: its shards stand at different places")
    assert not (tmp_path / "a.parquet").exists()
    told = json.loads(command("show", "out/state", "--json")[1])["partitions"]
    assert [(p["offset"], p["furthest"]) for p in told.values()] == [(40, 48)]
    assert "40 (some shards 48)" in command("show", "out/state")[1]


def test_nothing_is_packed_or_replaced_while_a_job_runs_there(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    before = contents(job.states)
    with locked(job.output):
        refused(
            command("import", "a.parquet", "out/state", "--force"), 6, "is writing here: wait for its end"
        )
        refused(command("export", "out/state", "b.parquet"), 6, "is writing here: wait for its end")
        assert command("show", "out/state")[0] == 0
    assert contents(job.states) == before


def test_what_is_there_is_kept_unless_that_is_said(job: StreamJob, command: Command, tmp_path: Path) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    packed = (tmp_path / "a.parquet").read_bytes()
    put(tmp_path / "in", "2.parquet", 10, 12)
    streamed(job, 48)
    before = contents(job.states)
    refused(command("export", "out/state", "a.parquet"), 2, "a.parquet is there already")
    refused(command("import", "a.parquet", "out/state"), 2, "out/state holds a state table")
    refused(command("import", "a.parquet", "in", "--force"), 2, "in is not empty and no state table")
    assert (tmp_path / "a.parquet").read_bytes() == packed
    assert contents(job.states) == before

    assert command("export", "out/state", "b.parquet", "--force")[0] == 0
    assert command("import", "a.parquet", "out/state", "--force")[0] == 0
    assert state_table.read(job.states).offset(PARTITION) == 40


def test_what_is_no_table_is_refused_in_one_line(job: StreamJob, command: Command, tmp_path: Path) -> None:
    refused(command("show", "nowhere"), 3, "nowhere holds no state table")
    refused(command("export", "in", "a.parquet"), 3, "in holds no state table")
    refused(command("import", "nowhere.parquet", "new"), 3, "nowhere.parquet: no such file")
    (tmp_path / "b.parquet").write_text("PAR1")
    refused(command("import", "b.parquet", "new"), 3, "b.parquet: not a readable Parquet file")
    refused(command("import", "in/1.parquet", "new"), 3, "in/1.parquet: is no table in one file")
    part = next(job.states.glob("*.parquet"))  # a snapshot is one shard, not all
    refused(command("import", str(part), "new"), 3, "is no table in one file")
    refused(command("export", "out/state", "in/1.parquet/a"), 6, "is a file, not a folder")
    assert not (tmp_path / "new").exists()


def test_a_file_whose_manifests_have_paths_writes_nothing_outside_its_table(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    command("export", "out/state", "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    rest = unseal(table.schema.metadata[b"statecast.table"])
    rest["manifests"] = {"../../evil.json": "{}"}
    changed = {**table.schema.metadata, b"statecast.table": seal(rest).encode()}
    del changed[b"statecast.checksum"]
    pq.write_table(table.replace_schema_metadata(changed), tmp_path / "a.parquet")
    assert command("import", "a.parquet", "deep/er/state")[0] == 0
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("evil.json")] == [
        Path("deep/er/state/evil.json")
    ]


def test_a_packed_table_is_one_shard_to_any_reader_of_snapshots(job: StreamJob, command: Command) -> None:
    command("export", "out/state", "a.parquet")
    shard = snapshot.from_arrow(pq.read_table("a.parquet"))
    assert (shard.number, shard.of, len(shard.state), len(shard.pending)) == (0, 1, 4, 4)
    assert shard.counts == state_table.read(replace(job).states).counts


def test_without_a_word_there_is_the_help(command: Command) -> None:
    code, said, _ = command()
    assert code == 0
    assert "Usage: statecast state" in said
