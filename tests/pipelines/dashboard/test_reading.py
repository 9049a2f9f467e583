"""Tests that the dashboard reads no file twice, and only the files that it needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.dashboard import forecast_files
from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.dashboard.forecast_files import ForecastFiles
from pipelines.storage import open_parts
from schemas.errors import DataError


class Recorder:
    """Reads text files, and records the names of the files that it has read."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> str:
        self.names.append(path.name)
        text = path.read_text()
        if text == "damaged":
            raise DataError(f"{path.name} is damaged")
        return text


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Return three text files, ``a``, ``b`` and ``c``, each of which contains its name."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    return paths


def test_the_dashboard_rereads_a_file_only_after_a_change(texts: list[Path]) -> None:
    read = Recorder()
    files = ChangedFiles(read)  # type: ignore[arg-type]
    assert [files.read(texts), files.read(texts)] == [["a", "b", "c"]] * 2
    assert read.names == ["a", "b", "c"]
    texts[1].write_text("new")
    os.utime(texts[1], ns=(1, 1))
    assert files.read(texts) == ["a", "new", "c"]
    assert read.names == ["a", "b", "c", "b"]


def test_the_dashboard_rereads_a_file_after_a_call_without_the_file(texts: list[Path]) -> None:
    read = Recorder()
    files = ChangedFiles(read)  # type: ignore[arg-type]
    files.read(texts)
    assert files.read(texts[:1]) == ["a"]
    assert files.read(texts[:2]) == ["a", "b"]
    assert read.names == ["a", "b", "c", "b"]


def test_the_dashboard_reads_files_above_its_limit_in_the_next_call(texts: list[Path]) -> None:
    files = ChangedFiles(Recorder())  # type: ignore[arg-type]
    assert (files.read(texts, most=2), files.unread) == (["a", "b"], 1)
    assert (files.read(texts, most=2), files.unread) == (["a", "b", "c"], 0)


def test_the_dashboard_skips_deleted_and_damaged_files(texts: list[Path]) -> None:
    texts[0].unlink()
    texts[1].write_text("damaged")
    files = ChangedFiles(Recorder())  # type: ignore[arg-type]
    assert (files.read(texts), files.errors) == (["c"], ["b is damaged"])
    texts[1].write_text("b")
    assert (files.read(texts), files.errors) == (["b", "c"], [])


def test_alarms_are_read_only_from_the_newest_forecast_files(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_files, "ALARM_FILES", 5)
    monkeypatch.setattr(forecast_files, "FILES_AT_ONCE", 3)
    files = ForecastFiles(finished)
    newest = sorted((path.name for path in (finished / "forecasts").iterdir()), key=lambda n: n[17:])[-5:]
    assert len(newest) == 5
    _, _, unread = files.alarms()
    assert unread == 2
    _, since, unread = files.alarms()
    assert unread == 0
    assert since == min(name[:16] for name in newest)


def test_forecasts_of_a_series_are_read_only_from_files_of_its_shard(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = open_parts

    def record(path: Path):  # type: ignore[no-untyped-def]
        opened.append(path.name)
        return original(path)

    monkeypatch.setattr(forecast_files, "open_parts", record)
    from forecaster.time.frequency import Frequency

    files = ForecastFiles(finished)
    assert len(files.fans("yard", None, Frequency(3600), 3)) == 3
    assert len({name.partition("-shard-")[2] for name in opened}) == 1
    assert len(opened) <= 3
    before = len(opened)
    files.fans("yard", None, Frequency(3600), 3)
    assert len(opened) == before
