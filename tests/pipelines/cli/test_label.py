"""Tests of ``statecast label``, which trains and applies a labeller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer

from forecaster.labelling.config import LabelConfig
from pipelines.cli.app import app, run

ROWS = "series_id,time,x,label\n" + "\n".join(
    f"s{s},{1_600_000_000 + 60 * t},{np.sin(t * pace + s):.3f},{name}"
    for s in range(40)
    for pace, name in [((0.3, "slow"), (2.0, "quick"))[s % 2]]
    for t in range(8)
)
QUICKLY = ("--hidden", "4", "--epochs", "2", "--set", "threads=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rows.csv").write_text(ROWS)
    return tmp_path


def test_label_prints_scores_and_writes_model_and_labels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["label", "rows.csv", *QUICKLY, "-o", "out"]) == 0
    printed = capsys.readouterr().out
    assert "320 rows in = 320 used + 0 quarantined + 0 duplicate" in printed
    assert "a label per series: 40 series of up to 8 steps, 1 values a step (x)" in printed
    for score in ("accuracy", "macro f1", "log loss"):
        assert score in printed
    assert {path.name for path in (folder / "out").iterdir()} == {"labeller.safetensors", "labels.parquet"}


def test_label_fails_if_too_many_rows_are_quarantined(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "".join(f"\ns0,{1_600_001_000 + 60 * t},much,slow" for t in range(80))
    (folder / "rows.csv").write_text(ROWS + bad)
    assert run(["label", "rows.csv", *QUICKLY, "-o", "out"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "80 of 400 rows (20%) are quarantined, and data.max_quarantined = 0.1 allows 10%" in line
    assert "the first: rows.csv, row 321: 'much' is not a number" in line
    assert not (folder / "out").exists()
    assert run(["label", "rows.csv", *QUICKLY, "--set", "data.max_quarantined=0.2", "-o", "out"]) == 0
    assert run(["label", "rows.csv", *QUICKLY, "--set", "data.max_quarantined=2"]) == 2


def test_label_json_prints_one_object_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    assert run(["label", "rows.csv", *QUICKLY, "--json", "--cell", "rnn", "--scaling", "series"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows_in"] == summary["used"] + summary["quarantined"] + summary["duplicates"] == 320
    assert (summary["of"], summary["channels"], summary["classes"]) == ("sequence", ["x"], ["quick", "slow"])
    assert {"accuracy", "macro_f1", "log_loss"} == set(summary["scores"])
    assert len(summary["epochs"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "error: no input: name a long file with a label column, or try --example vowels"),
        (["none.csv"], 3, "error: none.csv: no such file or folder"),
        (["rows.csv", "--label", "state"], 3,
         "error: rows.csv: no column 'state' (--label); the columns are series_id, time, x, label"),
        (["rows.csv", "--cell", "tcn"], 2, "error: --cell \"tcn\": must be lstm, gru or rnn"),
        (["rows.csv", "--set", "test=2"], 2, "error: --set test=2: must be less than 1"),
        (["rows.csv", "--set", "depth=2"], 2, "error: --set depth: no such setting; the settings are cell"),
        (["rows.csv", "--set", "test=0.9"], 2, "error: validation and --set test leave nothing to learn"),
        (["rows.csv", "--freq", "1x"], 2, "error: --freq: '1x' is no duration: write 30s, 15m, 1h"),
        (["--example", "traffic"], 2, "error: --example traffic: no such example; choose vowels or"),
        (["rows.csv", "--scaling", "running"], 2, "error: scaling = running is only for labels of steps"),
    ],
)  # fmt: skip
def test_label_refuses_invalid_arguments_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, line: str
) -> None:
    assert run(["label", *arguments]) == code
    message = capsys.readouterr().err
    assert message.startswith(line)
    assert message.count("\n") == 1


def test_label_does_not_overwrite_an_existing_example_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["label", "--example", "vowels", *QUICKLY]) == 0
    printed = capsys.readouterr().out
    assert "wrote vowels.parquet" in printed
    assert "640 series of up to 29 steps, 12 values a step (c1, c2, c3, c4, c5, c6, ...)" in printed
    assert pl.read_parquet(folder / "vowels.parquet").height == 9961
    assert run(["label", "--example", "vowels"]) == 2
    assert "vowels.parquet already exists: use it with statecast label" in capsys.readouterr().err


def test_defaults_in_the_help_match_the_label_config() -> None:
    command = typer.main.get_command(app).commands["label"]  # type: ignore[attr-defined]
    defaults = LabelConfig()
    named = {param.name: param for param in command.params}
    for name in ("cell", "hidden", "layers", "seed", "epochs"):
        assert named[name].show_default == str(getattr(defaults, name))
