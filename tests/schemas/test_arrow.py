"""Tests that Arrow columns of every type are read, or their rows quarantined."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest

from schemas import arrow, cells, labels, observations
from tests.arrow_types import CELLS, arrow_types, table_of

TYPES = arrow_types()
COLUMNS = ("series_id", "timestamp", "value", "event_id", "observed.heat")


@pytest.mark.parametrize("name", COLUMNS)
def test_cells_of_every_arrow_type_are_accepted_or_quarantined(name: str) -> None:
    for kind, column in TYPES.items():
        raw = arrow.frame_of(table_of(CELLS, {name: column}))
        good, bad = observations.validate(raw)
        assert good.height + bad.height == CELLS, kind
        assert not any(good[column].null_count() for column in observations.SCHEMA), kind
        assert (bad["reason"].str.len_chars() > 0).all(), kind
        assert cells.shown(raw[name]).is_null().to_list() == raw[name].is_null().to_list(), kind


@pytest.mark.parametrize("name", ["series_id", "timestamp", "label", "value"])
def test_labelled_rows_of_every_arrow_type_are_accepted_or_quarantined(name: str) -> None:
    for kind, column in TYPES.items():
        good, bad = labels.validate(arrow.frame_of(table_of(CELLS, {name: column})), ["value"])
        assert good.height + bad.height == CELLS, kind


def validated(kind: str, name: str) -> tuple[pl.DataFrame, list[str]]:
    good, bad = observations.validate(arrow.frame_of(table_of(CELLS, {name: TYPES[kind]})))
    return good, bad["reason"].to_list()


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("duration_us", "value", "'PT0.000001S' is not a number (column value is Duration(time_unit='us'))"),
        ("binary", "series_id", "'\\xff' is no text (column series_id is Binary)"),
        ("string_not_utf8", "series_id", "'\\xff' is no text (column series_id is Binary)"),
        ("list", "value", "'[1]' is not a number (column value is List(Int64))"),
        ("time32_s", "timestamp", "'00:00:01' is not a time (column timestamp is Time)"),
        ("month_day_nano", "value", "'month_day_nano_interval [1,2,3]' is not a number"),
        ("duration_s", "observed.heat", "heat 'PT1S' is not a number (column heat is Duration"),
    ],
)
def test_a_quarantine_reason_shows_cell_value_and_column_type(kind: str, name: str, reason: str) -> None:
    assert any(found.startswith(reason) for found in validated(kind, name)[1]), validated(kind, name)[1]


@pytest.mark.parametrize(
    "kind", ["decimal256(60, 9)", "decimal256(76, 50)", "float16", "uint64", "dictionary_of_double"]
)
def test_rare_arrow_number_types_are_read_as_numbers(kind: str) -> None:
    good, reasons = validated(kind, "value")
    assert good["value"].to_list() == [float(cell) for cell in TYPES[kind].to_pylist()[:2]]
    assert reasons == ["value is missing"]


def test_decimals_too_wide_for_polars_keep_their_digits() -> None:
    wide = pa.array([Decimal("123456789012345678901234567890.5")], pa.decimal256(76, 30))
    assert arrow.series_of("id", wide).to_list() == ["123456789012345678901234567890.5" + "0" * 29]


def test_times_in_a_zone_unknown_to_polars_become_utc() -> None:
    cells_ = pa.array([1_672_531_200], pa.timestamp("s", "+05:30"))
    assert arrow.series_of("t", cells_).to_list() == [datetime(2023, 1, 1, tzinfo=UTC)]


def test_invalid_utf8_cells_of_a_chunked_column_become_null() -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, *pa.array(["x"]).buffers()[1:2], pa.py_buffer(b"\xff")]
    )
    column = arrow.series_of("id", pa.chunked_array([pa.array(["a"]), bad]))
    assert cells.names(column).to_list() == ["a", None]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            pa.array([Decimal("1.50")], pa.decimal256(60, 2)),
            pa.array([Decimal("1" * 50 + ".25")], pa.decimal256(60, 2)),
            ["1.50", "1" * 50 + ".25"],
        ),
        (
            pa.array([1], pa.int32()).view(pa.time32("s")),
            pa.array([10**8], pa.int32()).view(pa.time32("s")),
            ["00:00:01", "<value out of range: 100000000>"],
        ),
        (
            pa.array([["a"]]),
            pa.ListArray.from_arrays([0, 1], pa.array([b"\xff"]).view(pa.string())),
            ['list<item: string> ["a"]', "list<item: string>"],
        ),
        (pa.array(["a"]), pa.array([b"\xff"]).view(pa.string()), [b"a", b"\xff"]),
    ],
    ids=["decimal", "time", "list", "text"],
)
def test_a_column_whose_chunks_convert_to_different_types_is_read(
    first: pa.Array, second: pa.Array, expected: list[object]
) -> None:
    assert arrow.series_of("x", pa.chunked_array([first, second])).to_list() == expected
