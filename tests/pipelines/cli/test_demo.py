"""Test of ``statecast demo`` with 17 days of 6 series, instead of a year of 18 series."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pipelines.cli import engine
from pipelines.cli.app import run
from pipelines.examples import background, demo, weather
from pipelines.sinks.files import read_forecasts
from tests.forked import ForkedProcess

CELLS = ("lstm", "rnn")


def fork(command: Sequence[str], **streams: Any) -> ForkedProcess:
    """Start a command of the demo as a fork, because a new Python takes seconds to import the packages."""
    assert command[:5] == ["nice", "-n", "5", sys.executable, "-m"]
    return ForkedProcess(command[4:], stdout=streams["stdout"], stderr=streams["stderr"])


@pytest.fixture
def _small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = weather.weather().filter(
        pl.col("series_id").str.starts_with("EWR"), pl.col("timestamp") < datetime(2013, 1, 18, tzinfo=UTC)
    )
    monkeypatch.setattr(weather, "weather", lambda: rows)
    monkeypatch.setattr(engine, "find_prism", lambda: None)
    streams = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE")}
    monkeypatch.setattr(background, "subprocess", SimpleNamespace(Popen=fork, **streams))
    for name, value in {
        "CELLS": CELLS,
        "EPOCHS": 1,
        "TRAIN_END": datetime(2013, 1, 12, tzinfo=UTC),
        "TEST_FROM": datetime(2013, 1, 12, tzinfo=UTC),
        "STREAM_START": datetime(2013, 1, 15, tzinfo=UTC),
        "WINDOWS_PER_S": 1000,
    }.items():
        monkeypatch.setattr(demo, name, value)


@pytest.mark.usefixtures("_small_demo")
def test_the_demo_shows_forecasts_scores_and_what_to_try_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["demo", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    parts = (
        "lstm: training", "first forecasts: EWR.temp", "streams run in process: Prism is not installed",
        "rnn: waiting", "seasonal naive", "latency of the lstm stream", "Three things to try",
        "statecast forecast FILE", "statecast train FILE", "statecast stream FOLDER",
    )  # fmt: skip
    at = [shown.find(part) for part in parts]
    assert at == sorted(at), dict(zip(parts, at, strict=True))
    assert -1 not in at
    for cell in CELLS:
        assert len(read_forecasts(tmp_path / "out" / cell / "stream")) == 6 * 3 * 24
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") >= 3
