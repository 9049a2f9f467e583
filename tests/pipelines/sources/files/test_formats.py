"""Tests of `column_names` and `first_rows`, which return the column names and first rows of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.sources.files import formats


@pytest.mark.parametrize("cell", ["1.25", '"1.25"', '"1,\n5"', '"stray'])
def test_first_rows_returns_the_rows_of_the_first_batch(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    # The file is longer than a megabyte, and only about a megabyte is read for the first rows.
    path.write_text("a,b\n" + f"{'x' * 100},{cell}\n" * 15_000)
    expected = next(formats.batches(path, ["b"], 50))
    assert formats.first_rows(path, ["b"], 50).equals(expected)
    assert len(expected) == 50


def test_first_rows_is_empty_for_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,b\n")
    assert formats.first_rows(path, ["b"], 50).rows() == []


def test_the_header_of_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    for header in ("series_id,timestamp,value", "value,timestamp,series_id,more"):
        path.write_text(header + "\n")
        assert formats.column_names(path) == header.split(",")
