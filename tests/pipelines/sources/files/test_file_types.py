"""Tests of files with columns of most Parquet types, and with times and series ids in many forms."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.files import tables
from pipelines.sources.files import validated_rows as files
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from schemas.errors import DataError
from tests.arrow_types import CELLS, arrow_types, table_of
from tests.pipelines.sources.logs import read_log, values, write_file
from tests.pipelines.sources.watched import watch

NOW_S = 1_800_000_000.0
LONG = ("series_id", "timestamp", "value", "event_id", "heat")


def parquet_columns() -> dict[str, pa.Array]:
    """Return the columns of `arrow_types` that pyarrow can write to a Parquet file and then read from it."""
    found = {}
    for kind, column in arrow_types().items():
        if kind in ("fixed_size_list", "tensor"):
            continue
        try:
            pq.write_table(pa.table({"x": column}), pa.BufferOutputStream())
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            continue
        found[kind] = column
    return found


TYPES = parquet_columns()


def parts(path: Path, columns: Columns, skip_bad_files: bool = False) -> list[files.Part]:
    input_settings = Input(columns, skip_bad_files=skip_bad_files, max_future_s=3600, start_us=0)
    return list(files.read_files([path], input_settings, NOW_S, 1 << 20))


@pytest.mark.parametrize(("name", "skips"), [*((name, False) for name in LONG), ("value", True)])
def test_no_parquet_type_in_any_column_loses_a_row(tmp_path: Path, name: str, skips: bool) -> None:
    columns, path = Columns(event_id="event_id", observed=("heat",)), tmp_path / "f.parquet"
    more = {"event_id": pa.array(["e", "f", "g"]), "heat": pa.array([1.0, 2.0, 3.0])}
    for kind, column in TYPES.items():
        pq.write_table(table_of(CELLS, {**more, name: column}), path)
        found = parts(path, columns, skips)
        assert sum(len(p.rows) + len(p.rejected) + p.outside for p in found) == CELLS, kind
        assert all(reason for p in found for reason in p.rejected["reason"])


def test_every_parquet_type_in_wide_files_is_read_or_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    for kind, column in TYPES.items():
        pq.write_table(table_of(CELLS, {"b": column}, ("timestamp", "value", "b")), path)
        found = parts(path, Columns(layout="wide"))
        given = len(column) - column.null_count  # an empty cell of a wide file gives no row
        assert sum(len(p.rows) + len(p.rejected) for p in found) == CELLS + given, kind


def test_unused_columns_may_have_any_parquet_type(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    for kind, column in arrow_types().items():
        try:
            pq.write_table(table_of(CELLS, {"note": column}), path)
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            continue
        tables.check(path)
        assert sum(len(p.rows) for p in parts(path, Columns())) == CELLS, kind


def test_no_parquet_type_stops_a_watched_folder(tmp_path: Path) -> None:
    source = watch(tmp_path / "inbox")
    # Write each type to one column only, because a test above writes every type to every column.
    for name, (kind, column) in zip(cycle(LONG[:3]), TYPES.items(), strict=False):
        file = f"{name} {kind}.parquet".replace("/", " ")
        pq.write_table(table_of(CELLS, {name: column}), tmp_path / "inbox" / file)
    write_file(tmp_path / "inbox" / "z.csv", [("a", 1, 77)])
    batches = read_log(source)
    assert sum(len(b.rows) + len(b.rejected) + b.outside for b in batches) == CELLS * len(TYPES) + 1
    assert values(batches)[-1] == 77


def test_the_error_for_an_unsupported_parquet_type_names_the_type(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(table_of(CELLS, {"value": pa.array([[1], [2], [3]], pa.list_(pa.int64(), 1))}), path)
    with pytest.raises(DataError, match=r"column 'value' is fixed_size_list<.*, which cannot be read"):
        parts(path, Columns())
    (part,) = parts(path, Columns(), skip_bad_files=True)
    assert "column 'value' is fixed_size_list" in part.rejected["reason"][0]


def test_int96_times_out_of_range_are_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    times = pa.array([datetime(2023, 1, 1), datetime(9999, 12, 31), datetime(2023, 1, 2)], pa.timestamp("us"))
    table = table_of(CELLS, {"timestamp": times})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, store_schema=False)
    (part,) = parts(path, Columns())
    assert part.rows["timestamp"].to_list() == [datetime(2023, 1, d, tzinfo=UTC) for d in (1, 2)]
    assert part.rejected["reason"].to_list() == [
        "'9999-12-31 00:00:00.000000' is outside the years 1678 to 2261"
    ]


def csv(folder: Path, times: list[object], header: str = "series_id,timestamp,value") -> Path:
    path = folder / "f.csv"
    path.write_text("\n".join([header, *(f"a,{time},{i}" for i, time in enumerate(times))]) + "\n")
    return path


@pytest.mark.parametrize(
    ("times", "hint"),
    [
        ([1990, 1991], "'1990' is a year or a count of steps, no time: set data.time_format = '%Y'"),
        ([201301, 201302], "'201301' is a month written as a number: set data.time_format = '%Y%m'"),
        ([20130131, 20130201], "'20130131' is a day written as a number: set data.time_format = '%Y%m%d'"),
        ([201301310500], "is a minute written as a number: set data.time_format = '%Y%m%d%H%M'"),
        (
            [1, 2, 3],
            "'1' is too small for a time since 1970: for a count of steps set data.time_format = 's'",
        ),
    ],
)
def test_the_error_for_unreadable_times_names_the_setting_to_use(
    tmp_path: Path, times: list[object], hint: str
) -> None:
    path = csv(tmp_path, times)
    with pytest.raises(DataError) as refused:
        tables.check(path)
    assert "none of the times in column 'timestamp' can be read" in str(refused.value)
    assert hint in str(refused.value)
    # Without `tables.check`, every row must be rejected: its number must not be read as a time in 1970.
    assert [len(p.rejected) for p in parts(path, Columns())] == [len(times)]
    setting = str(refused.value).rsplit("data.time_format = ", 1)[1].split("'")[1]
    tables.check(path, Columns(time_format=setting))


@pytest.mark.parametrize(
    ("time_format", "time", "read"),
    [
        ("%Y", 1990, datetime(1990, 1, 1)),
        ("%Y%m", 201302, datetime(2013, 2, 1)),
        ("%Y%m%d", 20130131, datetime(2013, 1, 31)),
        ("excel", 44927, datetime(2023, 1, 1)),
        ("excel", 44927.0416667, datetime(2023, 1, 1, 1)),
        ("excel", 44927.0833333, datetime(2023, 1, 1, 2)),
        ("s", 7, datetime(1970, 1, 1, 0, 0, 7)),
        ("ms", 7, datetime(1970, 1, 1, 0, 0, 0, 7000)),
        ("%m/%d/%Y %H:%M", "01/02/2023 10:00", datetime(2023, 1, 2, 10)),
        ("%d.%m.%Y %H:%M%z", "01.02.2023 10:00+0200", datetime(2023, 2, 1, 8)),
    ],
)
def test_times_are_read_in_the_configured_format(
    tmp_path: Path, time_format: str, time: object, read: datetime
) -> None:
    (part,) = parts(csv(tmp_path, [time]), Columns(time_format=time_format))
    assert part.rows["timestamp"].to_list() == [read.replace(tzinfo=UTC)]
    if isinstance(time, float | int):
        path = tmp_path / "f.parquet"
        pq.write_table(table_of(1, {"timestamp": pa.array([time])}), path)
        (typed,) = parts(path, Columns(time_format=time_format))
        assert typed.rows["timestamp"].to_list() == [read.replace(tzinfo=UTC)]


def test_a_series_id_does_not_depend_on_column_type(tmp_path: Path) -> None:
    ids: list[pa.Array] = [
        pa.array([7, 8, 10]), pa.array([7.0, 8.0, 10.0]), pa.array([7.0, 8.0, 10.0], pa.float32()),
        pa.array(["7", "8", "10"]), pa.array(["7.0", "8.0", "10.0"]),
        pa.array(["7", "8", "10"]).dictionary_encode(),
        pa.array([7, 8, 10]).cast(pa.decimal128(30, 2)), pa.array([7, 8, 10]).cast(pa.decimal256(60, 9)),
        pa.array([b"7", b"8", b"10"]),
    ]  # fmt: skip
    for column in ids:
        path = tmp_path / "f.parquet"
        pq.write_table(table_of(CELLS, {"series_id": column}), path)
        (part,) = parts(path, Columns())
        assert part.rows["series_id"].to_list() == ["7", "8", "10"], column.type
    lines = tmp_path / "f.jsonl"
    lines.write_text("".join(f'{{"unique_id":{i},"ds":"2023-01-01","y":1}}\n' for i in ("7", "7.0", '"7"')))
    (part,) = parts(lines, Columns())
    assert part.rows["series_id"].unique().to_list() == ["7"]


def test_series_ids_such_as_007_and_7_stay_distinct(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    names = ["7", "007", "7.00", "7.5", "None", "NA", "null", "2023-01-01", "-", "0", "1.10", "1.1", "v2.0"]
    path.write_text("series_id,timestamp,value\n" + "".join(f"{name},2023-01-01,1\n" for name in names))
    (part,) = parts(path, Columns())
    assert part.rows["series_id"].to_list() == names
