"""Tests of the sinks of a Beam pipeline, which write the same files if an engine repeats a bundle."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from forecaster import advance
from forecaster.time.windows import Windows
from pipelines import WriteForecasts, WriteQuarantine, read_forecasts, read_quarantine
from pipelines.sinks.files import Format
from pipelines.storage import Remote
from schemas import observations
from schemas.forecasts import check_forecasts
from tests.fleets import START, forecaster

IN_PROCESS = PipelineOptions(["--runner=FnApiRunner"])


def some_forecasts(series: int = 3, windows: int = 5) -> pl.DataFrame:
    values = np.arange(float(series * windows)).reshape(windows, series) ** 1.5
    ids = tuple(f"s{number}" for number in range(series))
    _, forecasts = advance(forecaster(), forecaster().initial_state(), Windows(ids, START, values))
    return check_forecasts(forecasts.frame())


def write(frames: list[pl.DataFrame], sink: beam.PTransform[object, object]) -> None:
    with beam.Pipeline(options=IN_PROCESS) as pipeline:
        pipeline | beam.Create(frames) | sink


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_writing_forecasts_twice_gives_the_same_files(tmp_path: Path, format_: Format) -> None:
    frame = some_forecasts()
    first, second = frame.filter(pl.col("series_id") == "s0"), frame.filter(pl.col("series_id") != "s0")
    write([first, second, second.clear()], WriteForecasts(tmp_path, format_))
    written = files_in(tmp_path / "forecasts")
    assert len(written) == 2
    write([second.sample(fraction=1, shuffle=True, seed=0), first], WriteForecasts(str(tmp_path), format_))
    assert files_in(tmp_path / "forecasts") == written
    expected = frame.sort("issued_at", "series_id")
    assert read_forecasts(tmp_path).select(expected.columns).equals(expected)


def test_forecasts_of_two_models_or_revisions_are_in_separate_files(tmp_path: Path) -> None:
    frame = some_forecasts()
    other = frame.with_columns(model_version=pl.lit("gru-00000000"))
    repaired = frame.with_columns(revision=pl.lit(1, pl.Int32))
    write([pl.concat([frame, other, repaired])], WriteForecasts(tmp_path))
    assert len(files_in(tmp_path / "forecasts")) == 3
    assert len(read_forecasts(tmp_path, all_revisions=True)) == 3 * len(frame)
    newest = read_forecasts(tmp_path).filter(model_version=frame["model_version"][0])
    assert newest["revision"].unique().to_list() == [1]


def test_forecasts_written_twice_in_different_frames_are_read_once(tmp_path: Path) -> None:
    frame = some_forecasts()
    write(frame.partition_by("series_id"), WriteForecasts(tmp_path))
    write(frame.partition_by("issued_at"), WriteForecasts(tmp_path))
    assert read_forecasts(tmp_path).equals(frame.sort("issued_at", "series_id"))


def test_forecasts_are_written_to_an_object_store(s3: Remote) -> None:
    frame = some_forecasts()
    for _ in range(2):
        write([frame], WriteForecasts(str(s3)))
    assert len([*(s3 / "forecasts").glob("*")]) == 1
    assert read_forecasts(s3).equals(frame.sort("issued_at", "series_id"))


def test_writing_rejected_rows_twice_gives_the_same_files(tmp_path: Path) -> None:
    raw = pl.DataFrame(
        {"series_id": "a", "timestamp": "never", "value": 1.0, "file": ["x", "x", "y"], "row": [1, 2, 1]}
    )
    _, rejected = observations.validate(raw)
    write([rejected[:2], rejected[2:], rejected.clear()], WriteQuarantine(tmp_path))
    written = files_in(tmp_path / "quarantine")
    assert len(written) == 2
    write([rejected[1::-1], rejected[2:]], WriteQuarantine(tmp_path))
    assert files_in(tmp_path / "quarantine") == written
    assert read_quarantine(tmp_path).equals(rejected.sort("file", "row"))


def test_writing_into_a_file_as_output_folder_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Exception, match=r"out/forecasts/.*: cannot be written \("):
        write([some_forecasts()], WriteForecasts(tmp_path / "out"))
