"""Tests of the commands ``compare``, ``promote``, ``retrain`` and ``rollback``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.app import run
from tests.pipelines.cli.conftest import write_series


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a CSV with the series of the fixture ``series`` and 200 more hours."""
    return write_series(tmp_path_factory.mktemp("newer") / "newer.csv", 600)


class Shell:
    """A function that runs commands with one MLflow store, and captures their output."""

    def __init__(self, store: str, streams: pytest.CaptureFixture[str]) -> None:
        self._store, self._streams = store, streams

    def __call__(self, *words: object, code: int = 0) -> tuple[dict[str, Any], list[str]]:
        """Run a command; return the JSON object on stdout (empty without one) and the lines on stderr."""
        found = run([*map(str, words), "--tracking-uri", self._store, "--json"])
        printed = self._streams.readouterr()
        assert found == code, printed.err
        lines = printed.out.splitlines()
        assert len(lines) <= 1
        return (json.loads(lines[0]) if lines else {}), printed.err.splitlines()


@pytest.fixture
def shell(
    own_store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(f"sqlite:///{own_store}", capsys)


def test_compare_prints_json_with_champion_and_challenger_scores(shell: Shell, newer: Path) -> None:
    found, _ = shell("compare", "tiny@champion", "tiny/1", newer)
    assert found["champion"] == found["challenger"]
    assert found["overall"] == {"share": 0.0, "low": 0.0, "high": 0.0}
    assert {row["model"] for row in found["scores"]} == {
        "champion",
        "challenger",
        "persistence",
        "seasonal naive",
    }
    # the 400 hours of training rows end at this time
    assert found["scored_from"] == "2013-01-17T16:00:00+00:00"


def test_a_refused_promotion_prints_one_line_and_exits_with_code_7(shell: Shell, newer: Path) -> None:
    found, lines = shell("promote", "tiny/1", newer, "--if-better", code=7)
    assert not found["promoted"]
    assert len(lines) == 1
    assert lines[0].startswith("error: tiny/1 does not replace tiny/1: the loss is 0.00 % smaller")


def test_promotion_refuses_rows_on_which_a_model_was_trained(shell: Shell, series: Path) -> None:
    _, lines = shell("promote", "tiny/1", series, "--if-better", code=3)
    assert len(lines) == 1
    assert "0 windows lie after 2013-01-17 16:00 UTC, until when tiny/1 was trained" in lines[0]


def test_options_without_effect_are_refused(shell: Shell, newer: Path) -> None:
    _, lines = shell("promote", "tiny/1", newer, code=2)
    assert lines == ["error: DATA has no effect without --if-better: add --if-better or remove it"]
    _, lines = shell("promote", "tiny/1", newer, "--if-better", "--why", "I say so", code=2)
    assert "--why has no effect with --if-better" in lines[0]


def test_retrain_reports_parent_and_rollback_fails_without_earlier_version(shell: Shell, newer: Path) -> None:
    found, _ = shell("retrain", "tiny", newer, "--epochs", "2")
    assert found["parent"] == "tiny/1"
    assert len(found["epochs"]) == 2
    assert found["version"] in (None, "tiny/2")
    shell("promote", "tiny/1", "--alias", "tried", "--why", "to try it")
    _, lines = shell("rollback", "tiny", "--alias", "tried", code=4)
    assert "tiny@tried is tiny/1, and no earlier version is recorded" in lines[0]
