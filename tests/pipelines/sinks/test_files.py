from __future__ import annotations

import json
import os
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from forecaster.stepping import advance
from forecaster.windows import Windows
from pipelines.coders import Issued
from pipelines.sinks import files as sinks
from pipelines.sinks.files import (
    CLOSINGS,
    Format,
    WriteForecasts,
    WriteQuarantine,
    prepare_folder,
    read_forecasts,
    read_quarantine,
)
from schemas import observations
from schemas.errors import DataError, OutputError
from schemas.forecasts import check_forecasts
from tests.fleets import START, forecaster


def issued(shard: int = 0, windows: int = 4, level: float = 0.0) -> Issued:
    values = level + np.random.default_rng(shard).normal(size=(windows, 2))
    fleet = Windows((f"a{shard}", f"b{shard}"), START, values)
    forecasts = advance(forecaster(), forecaster().initial_state(), fleet)[1].frame()
    return Issued(forecasts, shard, len(forecasts), (1.0,))


def write(folder: Path, elements: list[Issued], format_: Format = "parquet") -> None:
    prepare_folder(folder)
    step = sinks._WriteForecasts(folder, format_)
    for element in elements:
        list(step.process(element))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_forecasts_are_read_as_they_were_written(tmp_path: Path, format_: Format) -> None:
    elements = [issued(0), issued(1, level=1e9)]
    write(tmp_path, elements, format_)
    found = read_forecasts(tmp_path)
    expected = pl.concat([element.forecasts for element in elements]).sort("issued_at", "series_id")
    assert check_forecasts(found).equals(expected)
    assert found.schema == expected.schema


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_a_rerun_writes_the_same_files_again(tmp_path: Path, format_: Format) -> None:
    write(tmp_path, [issued(0), issued(1)], format_)
    before = contents(tmp_path / "forecasts")
    write(tmp_path, [issued(1), issued(0)], format_)
    assert contents(tmp_path / "forecasts") == before
    assert sorted(before) == [
        f"20130101T010000Z-20130101T040000Z-shard-000{shard}.{format_}" for shard in (0, 1)
    ]


def test_a_writer_that_dies_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [issued(0)])
    before = read_forecasts(tmp_path)

    def half(frame: pl.DataFrame, path: Path, format_: Format) -> None:
        path.write_bytes(b"PAR1 and half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks, "write_frame", half)
    for element in (issued(0, level=5), issued(1)):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, [element])
    assert read_forecasts(tmp_path).equals(before)


def test_of_one_identity_in_two_files_the_last_written_counts(tmp_path: Path) -> None:
    write(tmp_path, [issued(0, windows=4)])
    write(tmp_path, [issued(0, windows=3, level=100)])
    for age, file in enumerate(sorted((tmp_path / "forecasts").iterdir())):
        os.utime(file, (1e9 - age, 1e9 - age))  # the shorter one's name comes first
    found = read_forecasts(tmp_path)
    assert len(found) == 8
    again = issued(0, windows=3, level=100).forecasts
    assert found.join(again, on=["series_id", "issued_at"], how="semi").equals(
        again.sort("issued_at", "series_id")
    )


def test_each_file_has_a_line_in_the_log_of_closings(tmp_path: Path) -> None:
    write(tmp_path, [issued(0), issued(1)])
    lines = [json.loads(line) for line in (tmp_path / CLOSINGS).read_text().splitlines()]
    assert [line["shard"] for line in lines] == [0, 1]
    assert [line["steps"] for line in lines] == [8, 8]
    assert lines[0]["first"] == "2013-01-01 01:00:00+00:00"
    assert lines[0]["last"] == "2013-01-01 04:00:00+00:00"
    assert all(line["latency_ms"][0] > 0 for line in lines)


def test_quarantined_rows_are_in_one_place_however_often_they_are_written(tmp_path: Path) -> None:
    raw = pl.DataFrame(
        {"series_id": ["a", "b"], "timestamp": ["2013-01-01", "never"], "value": ["x", "1"], "row": [7, 3]}
    )
    _, bad = observations.validate(raw.with_columns(file=pl.lit("f.csv")))
    prepare_folder(tmp_path)
    for _ in range(2):
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as p:
            p | beam.Create([bad, bad.head(1)]).with_output_types(pl.DataFrame) | WriteQuarantine(tmp_path)
        found = read_quarantine(tmp_path)
        assert found["row"].to_list() == [3, 7, 7]
    assert read_quarantine(tmp_path / "nowhere").is_empty()


def test_forecasts_travel_through_a_pipeline_into_files(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    elements = [issued(0), issued(1)]
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as p:
        p | beam.Create(elements).with_output_types(Issued) | WriteForecasts(tmp_path, "parquet")
    assert len(read_forecasts(tmp_path)) == 16


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"file/out: cannot write here \(Not a directory\).*--output"):
        prepare_folder(tmp_path / "file" / "out")


def test_a_folder_without_forecasts_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no forecasts here"):
        read_forecasts(tmp_path)


def test_a_disk_that_refuses_a_file_is_told_of_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks, "write_frame", full)
    with pytest.raises(OutputError, match=r"shard-0000\.parquet: cannot be written: No space left"):
        write(tmp_path, [issued(0)])
