"""Tests of ``stream --follow``: it needs a registered model, and a resumed stream does not need MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.sinks.files import read_forecasts
from pipelines.sources.model_changes import read_changes
from tests.pipelines.cli.conftest import statecast


def test_following_an_alias_needs_a_registered_model(tmp_path: Path, series: Path, model: Path) -> None:
    result = statecast("stream", series, "-m", model, "--follow", "champion", cwd=tmp_path)
    assert result.code == 2
    assert "stream.follow is 'champion', but" in result.stderr_line
    assert "is not a registered model: name one, such as weather" in result.stderr_line


def test_a_stream_that_follows_an_alias_resumes_without_mlflow(
    tmp_path: Path, series: Path, trained: tuple[str, dict[str, Any]]
) -> None:
    uri, version = trained[0], trained[1]["version"]["model_version"]
    stream = ("stream", series, "-m", "tiny", "--follow", "champion", "-o", "out", "--runner", "in-process")
    first = statecast(*stream, "--tracking-uri", uri, "--end", "2013-01-05", "--json", cwd=tmp_path)
    assert first.code == 0, first.err
    assert [change.version for change in read_changes(tmp_path / "out" / "state")] == [version]
    before = read_forecasts(tmp_path / "out")

    away = ("--tracking-uri", "http://127.0.0.1:9", "--resume", "--end", "2013-01-05", "--json")
    again = statecast(*stream, *away, cwd=tmp_path)
    assert again.code == 0, again.err
    assert read_forecasts(tmp_path / "out").equals(before)
