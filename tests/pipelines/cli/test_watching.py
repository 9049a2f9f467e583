from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.state.state_table import read
from tests.pipelines.cli.conftest import Ended, ended, start, until


def put(folder: Path, name: str, text: str) -> None:
    hidden = folder / f".{name}"
    hidden.write_text(text)
    hidden.rename(folder / name)


def rows(first: int, last: int) -> str:
    lines = [
        f"s{s},2013-01-{1 + h // 24:02}T{h % 24:02}:30:00Z,{h}" for h in range(first, last) for s in (0, 1)
    ]
    return "\n".join(["series_id,timestamp,value", *lines]) + "\n"


def issued(folder: Path, at: str) -> bool:
    return any((folder / "forecasts").glob(f"2*-{at}-*"))


@pytest.mark.prism
def test_a_bad_file_is_quarantined_and_counted_or_stops_a_watch_with_its_line_where_that_is_asked_for(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", "1.csv", rows(0, 30))
    put(tmp_path / "in", "2.csv", "what,is,this\n1,2,3\n")
    put(tmp_path / "in", "3.csv", rows(30, 40))

    watch = ("stream", "in", "--watch", "-m", model)
    strict = ended(start(*watch, "--stop-on-bad-files", "-o", "a", cwd=tmp_path))
    assert strict.code == 3
    assert strict.line.startswith("error: in/2.csv: no column timestamp")
    assert read(tmp_path / "a" / "state").closed_through is None  # its state is safe: nothing was stopped at

    lax = start(*watch, "-o", "b", "--json", cwd=tmp_path)
    until(lambda: issued(tmp_path / "b", "20130102T150000Z"), lax)
    lax.send_signal(signal.SIGINT)
    told = ended(lax)
    assert told.code == 0, told.err
    counts = json.loads(told.out)
    assert (counts["rows_in"], counts["bad_files"], counts["missing"]) == (80, 1, 0)
    (row,) = read_quarantine(tmp_path / "b").to_dicts()
    assert (row["file"], row["row"]) == ("in/2.csv", 0)
    assert row["reason"].startswith("no column timestamp")


@pytest.mark.prism
def test_a_row_from_the_year_2225_closes_no_window(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", "1.csv", rows(0, 5) + "s0,2225-01-01T00:00:00Z,7\n")
    soon = datetime.now(UTC) + timedelta(days=2)
    put(tmp_path / "in", "2.csv", rows(5, 10) + f"s1,{soon:%Y-%m-%dT%H:%M:%SZ},7\n")
    job = start("stream", "in", "--watch", "-m", model, "--json", cwd=tmp_path)
    until(lambda: issued(tmp_path / "out", "20130101T090000Z"), job)
    job.send_signal(signal.SIGTERM)
    told = ended(job)
    assert told.code == 0, told.err
    counts = json.loads(told.out)
    assert (counts["rows_in"], sum(counts["quarantined"].values()), counts["late"]) == (22, 2, 0)
    assert (counts["used"], counts["pending"], counts["missing"]) == (18, 2, 0)
    reasons = read_quarantine(tmp_path / "out")["reason"]
    assert reasons.str.ends_with("is more than 1h in the future").to_list() == [True, True]
    assert str(read_forecasts(tmp_path / "out")["issued_at"].max()) == "2013-01-01 09:00:00+00:00"


@pytest.mark.prism
def test_a_watch_that_is_killed_goes_on_by_the_same_command_and_tells_late_rows(
    tmp_path: Path, model: Path
) -> None:
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

    def run(files: dict[str, str], last: str, number: signal.Signals) -> Ended:
        for name, text in files.items():
            put(tmp_path / "in", name, text)
        job = start(*command, cwd=tmp_path)
        until(lambda: issued(tmp_path / "out", last), job)
        job.send_signal(number)
        return ended(job)

    run({"1.csv": rows(0, 30)}, "20130102T050000Z", signal.SIGKILL)
    run({"2.csv": rows(30, 40)}, "20130102T150000Z", signal.SIGKILL)
    told = run({"3.csv": rows(3, 5), "4.csv": rows(40, 50)}, "20130103T010000Z", signal.SIGINT)
    counts = told.object
    assert (counts["rows_in"], counts["used"], counts["late"], counts["pending"]) == (104, 98, 4, 2)
    assert counts["missing"] == 0
    assert read_late(tmp_path / "out")["series_id"].to_list() == ["s0", "s1"] * 2
    found = read_forecasts(tmp_path / "out")
    assert len(found) == found.select("series_id", "issued_at").n_unique() == 98
