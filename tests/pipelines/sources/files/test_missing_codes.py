"""Tests of numbers that mean a missing value, such as -9999."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipelines.settings.config import JobConfig
from pipelines.settings.data_config import DataConfig
from pipelines.sources.files.load_all import load_observations


def write_values(folder: Path, values: Sequence[object], wide: bool = False) -> Path:
    path = folder / "f.csv"
    head = "time,nines" if wide else "series_id,timestamp,value"
    lines = [
        ("" if wide else "nines,") + f"2023-01-{i // 24 + 1:02}T{i % 24:02}:00Z,{v}"
        for i, v in enumerate(values)
    ]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def loaded(path: Path, **data: object) -> tuple[pl.DataFrame, int, tuple[str, ...]]:
    found = load_observations(JobConfig(data=DataConfig(paths=(str(path),), **data)))
    return found.rows, len(found.quarantined), found.notices


def test_likely_missing_codes_are_reported_unless_configured_as_missing(tmp_path: Path) -> None:
    values: list[object] = [20 + i % 7 for i in range(100)]
    values[30:33] = [-9999, -9999.0, "-9999"]
    _, _, notices = loaded(write_values(tmp_path, values))
    notice = (
        "values that may stand for none (-9999) in 1 series, such as -9999, 3 times in 'nines', whose other "
        "values are 20 to 26: if so, set data.missing = [-9999]"
    )
    assert notices == (notice,)
    rows, quarantined, notices = loaded(tmp_path / "f.csv", missing=(-9999,))
    assert (len(rows), quarantined, notices) == (97, 3, ())


def test_missing_codes_in_a_wide_file_give_no_rows(tmp_path: Path) -> None:
    rows, quarantined, _ = loaded(write_values(tmp_path, [1, -9999, 3], wide=True), missing=(-9999,))
    assert (len(rows), quarantined) == (2, 0)


def test_99_once_or_near_other_values_gives_no_notice(tmp_path: Path) -> None:
    values: list[object] = [99, 99, 99, 102, 95, 0, 9999, 9999, 9000, 9999]
    assert loaded(write_values(tmp_path, values))[2] == ()
    assert loaded(write_values(tmp_path, [20.0] * 9 + [99]))[2] == ()


def test_one_value_beyond_float32_is_reported_as_missing_code(tmp_path: Path) -> None:
    (notice,) = loaded(write_values(tmp_path, [20.0, 21.0] * 9 + [3.5e38]))[2]
    assert "3.5e+38, 1 times in 'nines'" in notice
