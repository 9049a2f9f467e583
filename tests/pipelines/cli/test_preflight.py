from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import preflight
from pipelines.cli.options import split_off_beam
from pipelines.cli.preflight import engine_of


def test_a_stream_takes_prism_where_it_is_and_else_runs_in_process_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "find_prism", lambda: Path("prism"))
    assert engine_of("auto")[0] == "prism"
    assert engine_of("in-process") == ("in-process", "in process")
    monkeypatch.setattr(preflight, "find_prism", lambda: None)
    assert engine_of("auto") == ("in-process", "in process: Prism is not installed")


def test_what_follows_two_dashes_is_beams() -> None:
    data = [Path("a.csv"), Path("--parallelism=2"), Path("--experiments=x")]
    assert split_off_beam(data) == ([Path("a.csv")], ("--parallelism=2", "--experiments=x"))
    assert split_off_beam(None) == (None, ())
