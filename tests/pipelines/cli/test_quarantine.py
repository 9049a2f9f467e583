"""Tests of ``statecast quarantine``."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from pipelines.cli.app import run
from pipelines.sinks.files import PARTS, QUARANTINE, ShardFiles
from schemas import observations


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an output folder with three quarantined rows of two kinds."""
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


def test_quarantine_show_refuses_a_folder_that_is_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quarantine", "show", str(tmp_path / "nowhere")]) == 3
    assert "no such folder" in capsys.readouterr().err
