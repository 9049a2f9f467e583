"""Tests of the validated rows of a file, and of their offsets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecaster.time.frequency import Frequency
from pipelines.settings.config import JobConfig
from pipelines.settings.data_config import DataConfig
from pipelines.sources.files.opened_file import open_file
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input, input_of, read_file, read_files, read_to_end
from schemas.errors import DataError
from schemas.observations import validate
from schemas.quarantine import QuarantinedRow
from tests.pipelines.sources.logs import HOUR_US, NOW_S, START, write_file

INPUT = Input(Columns())
LINE = '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n'


def test_valid_and_rejected_rows_keep_their_offsets() -> None:
    raw = pl.DataFrame(
        {"series_id": ["a"] * 3, "timestamp": ["2013-01-01", "never", "2013-01-02"], "value": [1, 2, 3]}
    )
    good, bad = validate(raw.with_columns(offset=pl.Series([7, 8, 9])))
    assert good["offset"].to_list() == [7, 9]
    assert bad["offset"].to_list() == [8]
    good, bad = validate(raw[:1].with_columns(offset=pl.Series([7])))
    assert (good["offset"].to_list(), bad["offset"].to_list()) == ([7], [])


def test_read_file_gives_accepted_and_rejected_rows_their_offsets(tmp_path: Path) -> None:
    file = write_file(
        tmp_path / "a.csv", [("a", 0, 0), ("a", 1, "x"), ("a", "never", 2), ("a", 3, 3), ("a", 4, 4)]
    )
    first, second = read_file(file, replace(INPUT, batch_rows=3), NOW_S)
    assert (first.rows["offset"].to_list(), first.rejected["offset"].to_list(), first.stop) == (
        [0],
        [1, 2],
        3,
    )
    assert (second.rows["offset"].to_list(), second.stop) == ([3, 4], 5)
    (rest,) = read_file(file, replace(INPUT, batch_rows=3), NOW_S, skip_rows=4)
    assert rest.rows["offset"].to_list() == [4]


@pytest.mark.parametrize(
    ("seconds", "words"), [(3600, "1h"), (5400, "90m"), (86_400, "1d"), (7, "7s"), (0, "0s")]
)
def test_future_and_invalid_rows_are_rejected_in_file_order(tmp_path: Path, seconds: int, words: str) -> None:
    ahead_h = (NOW_S + seconds) / 3600 - START
    rows = [("a", 1, 1), ("b", ahead_h + 0.001, 2), ("b", 2, "x"), ("b", ahead_h - 0.001, 3), ("b", 5e4, "x")]
    (part,) = read_file(write_file(tmp_path / "a.csv", rows), replace(INPUT, max_future_s=seconds), NOW_S)
    assert part.rows["value"].to_list() == [1, 3]
    assert part.rejected["row"].to_list() == [2, 3, 5]
    assert part.rejected["column"].to_list() == ["timestamp", "value", "value"]
    assert part.rejected["reason"][0].endswith(f"Z' is more than {words} in the future")
    QuarantinedRow.validate(part.rejected.drop("offset"))


def test_no_row_of_a_truncated_jsonl_file_is_used(tmp_path: Path) -> None:
    good, bad = write_file(tmp_path / "a.jsonl", LINE), write_file(tmp_path / "b.jsonl", LINE * 9 + '{"ser')
    input_settings = replace(INPUT, batch_rows=2)
    for memory_bytes in (1, 1 << 20):
        parts = list(
            read_files([bad, good], replace(input_settings, skip_bad_files=True), NOW_S, memory_bytes)
        )
        assert [len(part.rows) for part in parts] == [0, 1]
        QuarantinedRow.validate(parts[0].rejected.drop("offset"))
        with pytest.raises(DataError, match=r"b\.jsonl: line 10"):
            list(read_files([good, bad], input_settings, NOW_S, memory_bytes))


def test_read_to_end_keeps_only_small_files_in_memory(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", h, h) for h in (3, 9, 4)])
    held = read_to_end(open_file(file, INPUT.columns), replace(INPUT, batch_rows=1), NOW_S, 1 << 20)
    large = read_to_end(open_file(file, INPUT.columns), replace(INPUT, batch_rows=1), NOW_S, 1)
    assert held.parts is not None
    assert [part.rows["value"].item() for part in held.parts] == [3, 9, 4]
    assert large == replace(held, parts=None)
    assert (large.stop, large.newest_us) == (3, (START + 9) * HOUR_US)


def test_input_of_lets_data_settings_override_its_defaults() -> None:
    def job_with(**data: Any) -> JobConfig:
        return JobConfig(data=DataConfig(**data))

    assert input_of(job_with(), Frequency(900)) == replace(INPUT, max_future_s=900)
    assert input_of(job_with(max_future="2h"), Frequency(900)).max_future_s == 7200
    assert input_of(job_with(), skip_bad_files=True).skip_bad_files
    assert not input_of(job_with(skip_bad_files=False), skip_bad_files=True).skip_bad_files
