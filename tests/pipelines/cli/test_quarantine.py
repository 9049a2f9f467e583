"""Tests of ``statecast quarantine``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from pipelines.cli.app import run
from pipelines.sinks.files import PARTS, QUARANTINE, ShardFiles, read_forecasts
from pipelines.sources import quarantine_log
from pipelines.sources.base import Positions, Step
from pipelines.sources.quarantine_log import QuarantineLog
from pipelines.storage import markers
from schemas import observations
from tests.pipelines.cli.conftest import Job


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an output folder with three quarantined rows: two with a bad value, one with a bad time."""
    monkeypatch.chdir(tmp_path)
    for part in PARTS:
        (tmp_path / "out" / part).mkdir(parents=True)
    raw = pl.DataFrame(
        {
            "series_id": ["a", "b", "c"],
            "timestamp": ["2013-01-01", "yesterday", "2013-01-01"],
            "value": ["much", "1", "x"],
            "row": [4, 5, 6],
            "file": ["rows.csv"] * 3,
        }
    )
    _, rejected = observations.validate(raw)
    ShardFiles(Path("out"), 0, 1, "parquet").write_rows(QUARANTINE, "replay", 0, rejected)
    return Path("out")


def test_quarantine_show_counts_rows_by_kind_with_examples(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quarantine", "show", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["quarantined"] == 3
    first, second = shown["kinds"]
    assert (first["kind"], first["rows"]) == ("is not a number", 2)
    assert [row["row"] for row in first["examples"]] == [4, 6]
    assert json.loads(second["examples"][0]["raw"])["timestamp"] == "yesterday"
    assert run(["quarantine", "show", str(output), "--examples", "1"]) == 0
    text = capsys.readouterr().out
    assert "2 rows: is not a number" in text
    assert "rows.csv, row 4" in text
    assert "row 6" not in text


def test_quarantine_show_without_rejected_rows_is_one_line(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (output / QUARANTINE).iterdir():
        path.unlink()
    assert run(["quarantine", "show", str(output)]) == 0
    assert capsys.readouterr().out == "out: no row is quarantined\n"


def test_quarantine_show_refuses_a_folder_that_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quarantine", "show", str(tmp_path / "nowhere")]) == 3
    assert "no such folder" in capsys.readouterr().err


@pytest.fixture
def replayable(job: Job) -> Job:
    """Return a job after a backfill that has quarantined two values with decimal commas and one word."""
    values = ["1.5"] * 36 + ['"2,5"', "much", '"3,5"', "4.5"]
    rows = [f"a,2023-01-{1 + h // 24:02}T{h % 24:02}:00Z,{value}" for h, value in enumerate(values)]
    (job.folder / "in.csv").write_text("\n".join(["series_id,timestamp,value", *rows, ""]))
    job("backfill in.csv -m model --set data.decimal=. --set windows.repair=24")
    return job


REPLAY = "quarantine replay out -m model --set windows.repair=24 --set data.decimal=,"


def test_quarantine_replay_prints_counts_that_add_up(
    replayable: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(REPLAY.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = "3 rows read again = 2 used + 0 duplicate + 0 too late + 1 quarantined again"
    assert counts in lines
    assert "quarantined again (1 is not a number): out/quarantine" in lines
    assert run(REPLAY.split()) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("out: ")]
    assert line.endswith("(1 is not a number): there is nothing to replay")
    assert run(["state", "show", "out/state"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "40 in, 3 read again from quarantine: 39 used" in text
    assert "0 pending, 4 quarantined" in text


def test_quarantine_replay_prints_one_json_object(replayable: Job) -> None:
    found, lines = replayable(REPLAY)
    assert lines == []
    assert (found["replayed"], found["used"], found["repaired"], found["left"]) == (3, 2, 2, 1)
    assert found["quarantined"] == {"is not a number": 1}
    assert found["missing"] == 0
    again, _ = replayable(REPLAY)
    assert (again["replayed"], again["left"]) == (0, 1)


def test_quarantine_replay_with_another_window_length_is_refused(replayable: Job) -> None:
    _, (line,) = replayable(f"{REPLAY} --set windows.freq=2h", 2)
    assert "windows.freq is 2h, but model was trained with 1h: leave it out" in line


def test_rerunning_a_quarantine_replay_after_ctrl_c_completes_it(
    replayable: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_log, "_BATCH_ROWS", 1)
    shutil.copytree("out", "whole")
    expected, _ = replayable(REPLAY.replace(" out ", " whole "))
    original = QuarantineLog.step

    def interrupt(log: QuarantineLog, places: Positions) -> Step[Positions] | None:
        if places[log.partition].offset == log.first + 1:
            os.kill(os.getpid(), signal.SIGINT)
            deadline_s = time.monotonic() + 60
            while not (Path("out") / markers.STOP).exists():
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        return original(log, places)

    with monkeypatch.context() as patched:
        patched.setattr(QuarantineLog, "step", interrupt)
        first, _ = replayable(REPLAY)
    # The files leave the quarantine only when all of their rows have been read again.
    assert (first["stopped"], first["replayed"], first["missing"], first["left"]) == (True, 2, 0, 4)
    second, _ = replayable(REPLAY)
    assert {**second, "seconds": 0} == {**expected, "seconds": 0}
    assert not second["stopped"]
    forecasts = [read_forecasts(Path(folder), all_revisions=True) for folder in ("out", "whole")]
    assert forecasts[0].equals(forecasts[1])
