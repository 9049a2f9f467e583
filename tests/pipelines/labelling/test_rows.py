"""Tests of how a labelling job reads labelled rows from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.labelling.rows import LabelColumns, find_columns, read_labelled
from schemas.errors import DataError

ROWS = """series_id,timestamp,temp,load,note,label,part
a,2020-01-01T00:00Z,1.5,10,fine,ok,train
a,2020-01-01T01:00Z,,11,fine,ok,train
a,soon,1.5,12,fine,ok,train
b,2020-01-01T00:00Z,hot,13,fine,bad,test
b,2020-01-01T01:00Z,2.5,14,fine,,test
b,2020-01-01T02:00Z,2.5
"""


def write_rows(folder: Path, text: str = ROWS, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_number_columns_without_another_role_are_values_by_default(tmp_path: Path) -> None:
    path = write_rows(tmp_path)
    found = find_columns(path, LabelColumns(split="part"))
    assert found == LabelColumns("label", ("temp", "load"), "series_id", "timestamp", "part")
    assert find_columns(path, LabelColumns(values=("load",))).values == ("load",)


def test_every_labelled_row_is_used_or_quarantined(tmp_path: Path) -> None:
    path = write_rows(tmp_path)
    seen: list[int] = []
    read = read_labelled([path], LabelColumns(split="part"), seen.append)
    assert (len(read.rows), len(read.quarantined), sum(seen)) == (3, 3, 6)
    assert read.channels == ("temp", "load")
    assert read.rows["temp"].to_list() == [1.5, None, 2.5]
    assert read.rows["label"].to_list() == ["ok", "ok", None]
    assert read.rows["split"].to_list() == ["train", "train", "test"]
    places = read.quarantined.select("file", "row", "column").rows()
    assert places == [(str(path), 3, "timestamp"), (str(path), 4, "temp"), (str(path), 6, "")]
    assert read.quarantined["reason"][2].startswith("3 cells where the header has 7")


def test_a_file_without_series_ids_is_one_series(
    tmp_path: Path,
) -> None:
    path = write_rows(tmp_path, "time,x,label\n2020-01-01,1,0\n2020-01-02,2,1\n", "pump.csv")
    read = read_labelled([path], LabelColumns())
    assert read.rows["series_id"].to_list() == ["pump", "pump"]
    assert read.notices == (f"{path}: times have no zone, UTC assumed",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            LabelColumns("state"),
            r"rows.csv: no column 'state' \(--label\); the columns are series_id, timestamp",
        ),
        (LabelColumns(values=("heat",)), r"no column 'heat' \(--value\)"),
        (LabelColumns(values=("label",)), "column 'label' cannot be a value, because its name is reserved"),
        (LabelColumns(split="set"), r"no column 'set' \(--split\)"),
    ],
)
def test_the_error_for_an_unusable_column_names_the_column(
    tmp_path: Path, columns: LabelColumns, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled([write_rows(tmp_path)], columns)


def test_files_with_missing_or_different_columns_are_refused(tmp_path: Path) -> None:
    no_time = write_rows(tmp_path, "series_id,x,label\na,1,ok\n", "a.csv")
    with pytest.raises(DataError, match="no column of times among series_id, x, label: name one with --time"):
        read_labelled([no_time], LabelColumns())
    no_value = write_rows(tmp_path, "series_id,time,label\na,2020-01-01,ok\n", "b.csv")
    with pytest.raises(DataError, match="no column of numbers beside label, series_id, time"):
        read_labelled([no_value], LabelColumns())
    one = write_rows(tmp_path, "time,x,label\n2020-01-01,1,ok\n", "c.csv")
    other = write_rows(tmp_path, "time,y,label\n2020-01-01,1,ok\n", "d.csv")
    with pytest.raises(DataError, match=r"d.csv: its value columns are y, and other files have x"):
        read_labelled([one, other], LabelColumns())


def test_an_input_without_usable_rows_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path, "time,x,label\nsoon,1,ok\nlater,2,bad\n")
    message = r"no row can be used: 2 were quarantined, the first: \S+, row 1: 'soon' is not a"
    with pytest.raises(DataError, match=message):
        read_labelled([path], LabelColumns())
