"""Tests that files in tests/data, which common tools have written, are read with the right values."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.settings.data_config import Columns
from pipelines.sources.files import tables
from pipelines.sources.files.find_files import find_files
from pipelines.sources.files.validated_rows import Input, read_files
from schemas.errors import DataError

DATA = Path(__file__).parents[3] / "data"
HOURS = 40
Row = tuple[str, datetime, float]

PLAIN = [
    "pandas_index.csv", "pandas_us.csv", "pandas_german.csv", "pandas_latin1.csv", "pandas_utf16.csv",
    "pandas.csv.gz", "pandas.csv.xz", "pandas.csv.bz2", "pandas.csv.zip", "pandas.csv.zst", "pandas_wide.csv",
    "pandas.jsonl", "pandas.parquet", "openpyxl.xlsx", "xlsxwriter.xlsx", "pandas_serial.csv", "excel_us.csv",
    "excel_german.csv", "r.csv", "r2.csv", "sheets.csv",
]  # fmt: skip


def expected(suffix: str = "") -> list[Row]:
    """Return the rows that ``tests/data/write_files.py`` writes, with ``suffix`` after each series id."""
    begin, y = datetime(2010, 1, 31, tzinfo=UTC), np.round(1234.5 + 100 * np.sin(np.arange(2 * HOURS)), 2)
    names = [name + suffix for name in ("north", "süd")]
    return [
        (name, begin + timedelta(hours=h), float(y[i * HOURS + h]))
        for i, name in enumerate(names)
        for h in range(HOURS)
    ]


def read(path: str, **columns: Any) -> tuple[list[Row], list[str]]:
    """Return the sorted valid rows of files, and the reasons of their rejected rows."""
    how = Input(Columns(**columns))
    parts = list(read_files(find_files([DATA / path]).files, how, 1.8e9, 1 << 20))
    rows = [row for part in parts for row in part.rows.select("series_id", "timestamp", "value").rows()]
    return sorted(rows), [reason for part in parts for reason in part.rejected["reason"]]


@pytest.mark.parametrize("name", PLAIN)
def test_files_of_common_tools_are_read_without_settings(name: str) -> None:
    assert read(name) == (expected(), [])
    tables.check(DATA / name)


@pytest.mark.parametrize("name", ["postgres.csv", "postgres.tsv", "postgres_semicolon.csv"])
def test_files_that_postgresql_exports_are_read(name: str) -> None:
    rows, rejected = read(name, null_values=("\\N",))
    assert (rows, rejected) == (expected(), ["value is missing"])


def test_the_setting_null_values_marks_cells_as_missing() -> None:
    assert read("pandas_missing.csv")[1] == ["'-' is not a number"]
    rows, rejected = read("pandas_missing.csv", null_values=("-", "n/a"))
    assert rejected == ["value is missing"]
    assert rows == [row for i, row in enumerate(expected()) if i != 5]


def test_series_ids_may_combine_folder_names_with_file_columns() -> None:
    assert read("hive", series_id=("store", "item")) == (expected("/tea"), [])
    assert read("hive", series_id=("store",)) == (expected(), [])


@pytest.mark.parametrize("pattern", ["hive/*/*.parquet", "hive/store=*", "**/store=*/*.parquet"])
def test_a_path_pattern_reads_all_matching_files(pattern: str) -> None:
    assert read(pattern, series_id="store") == (expected(), [])


def test_a_path_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(DataError, match=r"nothing\*\.csv: matches no file or folder"):
        find_files([DATA / "nothing*.csv"])


def test_a_latin_1_file_gives_an_encoding_notice() -> None:
    notices = [tables.check(DATA / name).notices[0] for name in ("pandas_latin1.csv", "excel_german.csv")]
    assert notices == ["is not UTF-8, read as Windows-1252 (Latin-1): set data.encoding if it is another"] * 2
    assert "UTF-8" not in "".join(tables.check(DATA / "pandas_german.csv").notices)


def test_local_times_are_read_in_the_zone_of_the_job() -> None:
    rows, _ = read("openpyxl.xlsx", time_zone="Europe/Berlin")
    assert rows == [(name, time - timedelta(hours=1), y) for name, time, y in expected()]
    assert not tables.check(DATA / "openpyxl.xlsx", Columns(time_zone="Europe/Berlin")).lacks_zone


@pytest.mark.parametrize("second", ["ds", " ds ", "unique_id"])
def test_a_spreadsheet_with_duplicate_column_names_is_refused(second: str, tmp_path: Path) -> None:
    """The package that reads spreadsheets would rename the second column."""
    path = tmp_path / "twice.xlsx"
    with zipfile.ZipFile(DATA / "openpyxl.xlsx") as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(b"<t>y</t>", f"<t>{second}</t>".encode()))
    with pytest.raises(DataError) as error:
        tables.check(path)
    assert str(error.value) == f"{path}: two columns are called {second.strip()!r}: rename one"
