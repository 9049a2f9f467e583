"""Tests of ``statecast state``, which shows, exports and imports state tables."""

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
from pipelines.settings.data_config import Columns
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.folder import PARTITION, FolderSource
from pipelines.sources.reader import request_stop
from pipelines.state import state_table
from pipelines.storage import Location, store_of
from schemas.sealed import seal, unseal
from tests.comparisons import assert_same_frames, assert_same_state
from tests.fleets import START, forecaster, rows_of
from tests.outputs import contents

NAMES = ("a", "b", "c", "d")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs ``statecast state ...``: it returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = run(["state", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def add_file(folder: Path, name: str, first: int, stop: int) -> None:
    """Add a file with one row of every series in each of the windows ``first`` to ``stop - 1``."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(first).normal(size=(stop - first, len(NAMES)))
    rows_of(Windows(NAMES, START + first, values)).write_parquet(folder / f".{name}")
    (folder / f".{name}").rename(folder / name)


def watching_stream(tmp_path: Path, output: str = "out") -> StreamJob:
    out = tmp_path / output
    source = FolderSource(tmp_path / "in", Input(Columns()), out / "state", poll_s=0.05)
    return StreamJob(forecaster(), source, out, shards=3, runner="in-process", resume=True)


def stream_until(job: StreamJob, rows: int) -> None:
    """Run a stream until it has read ``rows`` rows, earlier runs included, and stop it."""

    def stop_if_read(numbers: JobNumbers) -> None:
        if numbers.counts.rows_in >= rows:
            request_stop(job.stop_file)

    run_stream(job, stop_if_read)


@pytest.fixture
def job(tmp_path: Path) -> StreamJob:
    """Return a stream that was stopped after it had read ten windows; the tenth window is still open."""
    add_file(tmp_path / "in", "1.parquet", 0, 10)
    job = watching_stream(tmp_path)
    stream_until(job, 40)
    return job


def test_the_command_state_show_prints_a_state_table_as_text_or_json(
    job: StreamJob, command: Command
) -> None:
    code, printed, _ = command("show", "out/state")
    assert code == 0
    for words in (
        job.forecaster.version,
        "4, of them 4 live",
        "2013-01-01T09:00:00+00:00",
        "40 in: 36 used, 0 duplicates, 0 late, 4 pending, 0 quarantined",
        "network",
        "ring",
    ):
        assert words in " ".join(printed.split())

    shown = json.loads(command("show", "out/state", "--json")[1])
    table = state_table.read(job.states)
    assert (shown["series"], shown["live"], shown["pending"], shown["shards"]) == (4, 4, 4, 3)
    assert shown["model_version"] == job.forecaster.version
    assert shown["closed_until"] == "2013-01-01T09:00:00+00:00"
    partition = shown["partitions"][PARTITION]
    assert partition["offset"] == partition["furthest"] == 40
    assert partition["watermark"].startswith("2013-01-01T09:")
    state = table.state
    assert shown["bytes_per_series"] == pytest.approx(state.bytes_by_component, abs=0.1)
    assert shown["bytes_of_a_series"] == pytest.approx(state.bytes_per_series, abs=0.1)
    assert (shown["counts"]["used"], shown["counts"]["missing"]) == (36, 0)


def assert_same_tables(one: Location, other: Location) -> None:
    """Assert that the state tables in two folders are equal, except for the number of shards.

    The states, pending rows, closed windows, counts, offsets and watermarks must be equal.
    """
    first, second = (state_table.read(folder) for folder in (one, other))
    assert_same_state(first.state, second.state)
    assert first.pending.sort("series_id").equals(second.pending.sort("series_id"))
    assert first.closed_through == second.closed_through
    assert first.counts == second.counts
    assert {tuple(s.offsets.items()) for s in first.shards} == {
        tuple(s.offsets.items()) for s in second.shards
    }
    watermarks = [{tuple(s.watermarks.items()) for s in table.shards} for table in (first, second)]
    assert watermarks[0] == watermarks[1]


@pytest.mark.parametrize("shards", [None, 1, 5])
def test_an_imported_table_equals_the_exported_one_for_any_shard_count(
    job: StreamJob, command: Command, tmp_path: Path, shards: int | None
) -> None:
    assert command("export", "out/state", "kept/a.parquet")[0] == 0
    rows = pl.read_parquet(tmp_path / "kept" / "a.parquet")
    assert sorted(rows["series_id"]) == list(NAMES)  # the file has one row for each series
    assert rows["pending"].list.len().to_list() == [1, 1, 1, 1]
    options = () if shards is None else ("--shards", str(shards))
    assert command("import", "kept/a.parquet", "other", *options)[0] == 0
    assert_same_tables(job.states, tmp_path / "other")
    assert len(state_table.read(tmp_path / "other").shards) == (shards or 3)
    manifest = "folder.jsonl"
    assert (tmp_path / "other" / manifest).read_bytes() == (job.states / manifest).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "kept", "other", "out"]
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["a.parquet"]


def test_original_and_imported_state_tables_give_equal_stream_outputs(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    assert command("import", "a.parquet", "new/state", "--shards", "2")[0] == 0
    add_file(tmp_path / "in", "2.parquet", 10, 20)
    imported = watching_stream(tmp_path, "new")
    for each in (job, imported):
        stream_until(each, 80)
    assert_same_tables(job.states, imported.states)
    # the 40 rows before the export are not read again
    assert state_table.read(imported.states).counts.rows_in == 80
    before = read_forecasts(job.output)
    units = dict.fromkeys(NAMES, 1.0)
    since = before.filter(pl.col("issued_at") > before["issued_at"].unique().sort()[8])
    assert_same_frames(read_forecasts(imported.output), since, units)
    assert len(since) == 4 * 10


def assert_refused(result: tuple[int, str, str], code: int, line: str) -> None:
    """Assert exit code ``code``, an empty stdout, and one line on stderr that contains ``line``."""
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].count("\n") == 1
    assert line in result[2]


def test_shards_at_different_offsets_are_not_exported(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    older = {path: path.read_bytes() for path in job.states.glob("shard-0001*")}
    add_file(tmp_path / "in", "2.parquet", 10, 12)
    stream_until(job, 48)
    for path, data in older.items():
        path.write_bytes(data)
    assert_refused(
        command("export", "out/state", "a.parquet"), 3, "out/state: the shards are at different offsets"
    )
    assert not (tmp_path / "a.parquet").exists()
    partitions = json.loads(command("show", "out/state", "--json")[1])["partitions"]
    assert [(p["offset"], p["furthest"]) for p in partitions.values()] == [(40, 48)]
    assert "40 (some shards 48)" in command("show", "out/state")[1]


def test_export_and_import_are_refused_while_a_job_runs(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    before = contents(job.states)
    with store_of(job.output).locked():
        assert_refused(
            command("import", "a.parquet", "out/state", "--force"), 6, "is writing here: wait for its end"
        )
        assert_refused(command("export", "out/state", "b.parquet"), 6, "is writing here: wait for its end")
        assert command("show", "out/state")[0] == 0
    assert contents(job.states) == before


def test_export_and_import_replace_files_only_with_force(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert command("export", "out/state", "a.parquet")[0] == 0
    packed = (tmp_path / "a.parquet").read_bytes()
    add_file(tmp_path / "in", "2.parquet", 10, 12)
    stream_until(job, 48)
    before = contents(job.states)
    assert_refused(command("export", "out/state", "a.parquet"), 2, "a.parquet already exists")
    assert_refused(command("import", "a.parquet", "out/state"), 2, "out/state holds a state table")
    assert_refused(
        command("import", "a.parquet", "in", "--force"), 2, "in is not empty and holds no state table"
    )
    assert (tmp_path / "a.parquet").read_bytes() == packed
    assert contents(job.states) == before

    assert command("export", "out/state", "b.parquet", "--force")[0] == 0
    assert command("import", "a.parquet", "out/state", "--force")[0] == 0
    assert state_table.read(job.states).offset(PARTITION) == 40


def test_state_commands_refuse_invalid_tables_in_one_line(
    job: StreamJob, command: Command, tmp_path: Path
) -> None:
    assert_refused(command("show", "nowhere"), 3, "nowhere holds no state table")
    assert_refused(command("export", "in", "a.parquet"), 3, "in holds no state table")
    assert_refused(command("import", "nowhere.parquet", "new"), 3, "nowhere.parquet: no such file")
    (tmp_path / "b.parquet").write_text("PAR1")
    assert_refused(command("import", "b.parquet", "new"), 3, "b.parquet: not a readable Parquet file")
    assert_refused(
        command("import", "in/1.parquet", "new"), 3, "in/1.parquet: is not an exported state table"
    )
    # A snapshot of a shard is also a Parquet file, but not an exported state table.
    part = next(job.states.glob("*.parquet"))
    assert_refused(command("import", str(part), "new"), 3, "is not an exported state table")
    assert_refused(command("export", "out/state", "in/1.parquet/a"), 6, "is a file, not a folder")
    assert not (tmp_path / "new").exists()


def test_importing_a_table_writes_no_file_outside_its_folder(
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


def test_state_export_writes_three_shards_as_one_readable_snapshot(job: StreamJob, command: Command) -> None:
    command("export", "out/state", "a.parquet")
    shard = snapshot.from_arrow(pq.read_table("a.parquet"))
    assert (shard.number, shard.of, len(shard.state), len(shard.pending)) == (0, 1, 4, 4)
    assert shard.counts == state_table.read(replace(job).states).counts


def test_state_without_a_subcommand_prints_the_help(command: Command) -> None:
    code, printed, _ = command()
    assert code == 0
    assert "Usage: statecast state" in printed
