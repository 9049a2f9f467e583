"""Tests of the validation of labelled rows."""

from __future__ import annotations

import polars as pl
import pytest

from schemas.errors import DataError
from schemas.labels import KEY, validate

TIME = "2013-01-01T00:00Z"


def raw(**columns: list[object]) -> pl.DataFrame:
    height = len(next(iter(columns.values())))
    return pl.DataFrame({"series_id": ["a"] * height, "timestamp": [TIME] * height} | columns, strict=False)


def test_labelled_rows_with_missing_cells_are_accepted_and_typed() -> None:
    good, bad = validate(raw(x=["1.5", "", "nan"], y=["1", "2", "3"], label=[" up ", "", "down"]), ["x", "y"])
    assert bad.is_empty()
    assert good.schema == KEY | {"x": pl.Float64(), "y": pl.Float64()}
    assert good["x"].to_list() == [1.5, None, None]
    assert good["label"].to_list() == ["up", None, "down"]


@pytest.mark.parametrize(
    ("column", "cell", "kind", "reason"),
    [
        ("x", "soon", "is not a number", "'soon' is not a number, or is beyond 1e+100"),
        ("x", "inf", "is not a number", "'inf' is not a number, or is beyond 1e+100"),
        ("series_id", " ", "series_id is missing", "series_id is missing"),
        ("timestamp", "soon", "is not a time", "'soon' is not a time of the years 1678 to 2261"),
        ("split", "exam", "split is no known part",
         "'exam' is no part: write train, validation, test, or nothing"),
    ],
)  # fmt: skip
def test_an_invalid_labelled_row_is_quarantined_with_column_kind_and_reason(
    column: str, cell: str, kind: str, reason: str
) -> None:
    frame = raw(x=["1", "2"], split=["train", None], file=["f.csv"] * 2, row=[7, 8])
    frame = frame.with_columns(pl.when(pl.col("row") == 8).then(pl.lit(cell)).otherwise(column).alias(column))
    good, bad = validate(frame, ["x"])
    assert len(good) + len(bad) == 2
    assert bad.row(0, named=True) | {"raw": ""} == {
        "file": "f.csv", "row": 8, "column": column, "reason": reason, "raw": "", "kind": kind
    }  # fmt: skip


def test_an_unreadable_row_is_quarantined_with_the_reason_of_the_reader() -> None:
    good, bad = validate(raw(x=["1", None], problem=[None, "3 cells where the header has 4: a,b,c"]), ["x"])
    assert (len(good), bad["column"].to_list()) == (1, [""])
    assert bad["reason"].to_list() == ["3 cells where the header has 4: a,b,c"]


def test_whole_number_labels_have_no_decimal_point() -> None:
    good, _ = validate(raw(x=[1, 2, 3], label=[1.0, 0.0, None]), ["x"])
    assert good["label"].to_list() == ["1", "0", None]


def test_the_texts_none_and_na_are_valid_labels_and_ids() -> None:
    texts: list[object] = ["None", "NA", "null", "", None, " "]
    good, bad = validate(raw(x=[1] * 6, label=texts), ["x"])
    assert bad.is_empty()
    assert good["label"].to_list() == ["None", "NA", "null", None, None, None]
    good, bad = validate(raw(x=[1] * 6, series_id=texts), ["x"])
    assert good["series_id"].to_list() == ["None", "NA", "null"]
    assert bad["reason"].to_list() == ["series_id is missing"] * 3


def test_numeric_labels_and_their_texts_become_the_same_label() -> None:
    for label in ([1.0, 2.5], ["1.0", "2.5"], ["1", "2.5"], [" 1.0", "2.5 "]):
        good, _ = validate(raw(x=[1, 2], label=list(label)), ["x"])
        assert good["label"].to_list() == ["1", "2.5"]


def test_labelled_rows_without_a_channel_column_are_refused() -> None:
    with pytest.raises(DataError, match="the rows lack y; their columns are: series_id, timestamp, x"):
        validate(raw(x=[1]), ["x", "y"])
