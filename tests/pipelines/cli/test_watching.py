"""Tests of streams that watch a folder for new files: bad files, wrong times, and kills."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.state.state_table import read
from tests.pipelines.cli.conftest import EndedCommand, start, wait_for_exit, wait_until


def add_file(folder: Path, name: str, text: str) -> None:
    hidden = folder / f".{name}"
    hidden.write_text(text)
    hidden.rename(folder / name)


def rows(first: int, last: int) -> str:
    lines = [
        f"s{s},2013-01-{1 + h // 24:02}T{h % 24:02}:30:00Z,{h}" for h in range(first, last) for s in (0, 1)
    ]
    return "\n".join(["series_id,timestamp,value", *lines]) + "\n"


def has_issued(folder: Path, at: str) -> bool:
    return any((folder / "forecasts").glob(f"2*-{at}-*"))


@pytest.mark.prism
def test_bad_files_end_a_watching_stream_only_if_requested(tmp_path: Path, model: Path) -> None:
    """With ``--stop-on-bad-files`` the stream ends; without the option, the file is quarantined."""
    (tmp_path / "in").mkdir()
    add_file(tmp_path / "in", "1.csv", rows(0, 30))
    add_file(tmp_path / "in", "2.csv", "what,is,this\n1,2,3\n")
    add_file(tmp_path / "in", "3.csv", rows(30, 40))

    watch = ("stream", "in", "--watch", "-m", model)
    strict = wait_for_exit(start(*watch, "--stop-on-bad-files", "-o", "a", cwd=tmp_path))
    assert strict.code == 3
    assert strict.stderr_line.startswith("error: in/2.csv: no column timestamp")
    # The stream ended before it closed a window, but left a readable state table.
    assert read(tmp_path / "a" / "state").closed_through is None

    lenient = start(*watch, "-o", "b", "--json", cwd=tmp_path)
    wait_until(lambda: has_issued(tmp_path / "b", "20130102T150000Z"), lenient)
    lenient.send_signal(signal.SIGINT)
    result = wait_for_exit(lenient)
    assert result.code == 0, result.err
    counts = json.loads(result.out)
    assert (counts["rows_in"], counts["bad_files"], counts["missing"]) == (80, 1, 0)
    (row,) = read_quarantine(tmp_path / "b").to_dicts()
    assert (row["file"], row["row"]) == ("in/2.csv", 0)
    assert row["reason"].startswith("no column timestamp")


@pytest.mark.prism
def test_a_row_from_the_year_2225_closes_no_window(tmp_path: Path, model: Path) -> None:
    """A row from the future is quarantined, so that it does not move the watermark."""
    (tmp_path / "in").mkdir()
    add_file(tmp_path / "in", "1.csv", rows(0, 5) + "s0,2225-01-01T00:00:00Z,7\n")
    soon = datetime.now(UTC) + timedelta(days=2)
    add_file(tmp_path / "in", "2.csv", rows(5, 10) + f"s1,{soon:%Y-%m-%dT%H:%M:%SZ},7\n")
    job = start("stream", "in", "--watch", "-m", model, "--json", cwd=tmp_path)
    wait_until(lambda: has_issued(tmp_path / "out", "20130101T090000Z"), job)
    job.send_signal(signal.SIGTERM)
    result = wait_for_exit(job)
    assert result.code == 0, result.err
    counts = json.loads(result.out)
    assert (counts["rows_in"], sum(counts["quarantined"].values()), counts["late"]) == (22, 2, 0)
    assert (counts["used"], counts["pending"], counts["missing"]) == (18, 2, 0)
    reasons = read_quarantine(tmp_path / "out")["reason"]
    assert reasons.str.ends_with("is more than 1h in the future").to_list() == [True, True]
    assert str(read_forecasts(tmp_path / "out")["issued_at"].max()) == "2013-01-01 09:00:00+00:00"


@pytest.mark.prism
def test_a_killed_stream_resumes_when_its_command_is_run_again(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    command = (
        "stream",
        "in",
        "--watch",
        "-m",
        model,
        "--resume",
        "--json",
        "-s",
        "stream.snapshot_every_s=0.1",
    )

    def run_and_signal(files: dict[str, str], last: str, number: signal.Signals) -> EndedCommand:
        for name, text in files.items():
            add_file(tmp_path / "in", name, text)
        job = start(*command, cwd=tmp_path)
        wait_until(lambda: has_issued(tmp_path / "out", last), job)
        job.send_signal(number)
        return wait_for_exit(job)

    run_and_signal({"1.csv": rows(0, 30)}, "20130102T050000Z", signal.SIGKILL)
    run_and_signal({"2.csv": rows(30, 40)}, "20130102T150000Z", signal.SIGKILL)
    result = run_and_signal({"3.csv": rows(3, 5), "4.csv": rows(40, 50)}, "20130103T010000Z", signal.SIGINT)
    counts = result.json_object
    assert (counts["rows_in"], counts["used"], counts["late"], counts["pending"]) == (104, 98, 4, 2)
    assert counts["missing"] == 0
    assert read_late(tmp_path / "out")["series_id"].to_list() == ["s0", "s1"] * 2
    found = read_forecasts(tmp_path / "out")
    assert len(found) == found.select("series_id", "issued_at").n_unique() == 98
