"""Tests of the reader of CSV, JSON lines and Parquet: columns, row numbers, and refused files."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.settings.data_config import Columns
from pipelines.sources.files.tables import check, input_files, read_batches
from schemas.errors import DataError
from schemas.observations import validate

LONG = "series_id,timestamp,value\na,2013-01-01T00:00:00Z,1\nb,2013-01-01T00:00:00Z,2.5\n"
WIDE = "time,a,b\n2013-01-01,1,\n2013-01-02,,x\n2013-01-03,3,4\n"


def write_file(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path: Path, columns: Columns | None = None, batch_rows: int = 200_000) -> pl.DataFrame:
    return pl.concat(list(read_batches(path, columns, batch_rows)), how="diagonal")


def message_of_refusal(path: Path, columns: Columns | None = None) -> str:
    """Read a file that must be refused; return the one-line error message, with FILE in place of its path."""
    with pytest.raises(DataError) as from_check:
        check(path, columns)
    with pytest.raises(DataError) as caught:
        list(read_batches(path, columns))
    message = str(caught.value)
    assert message == str(from_check.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize("names", ["series_id,timestamp,value", "unique_id,ds,y", "item_id,timestamp,target"])
def test_usual_column_names_of_long_files_are_recognized(names: str, tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", LONG.replace("series_id,timestamp,value", names))
    assert read(path).to_dicts() == [
        {"series_id": "a", "timestamp": "2013-01-01T00:00:00Z", "value": "1", "row": 1, "file": str(path)},
        {"series_id": "b", "timestamp": "2013-01-01T00:00:00Z", "value": "2.5", "row": 2, "file": str(path)},
    ]


def test_configured_column_names_are_preferred_to_usual_names(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", "id,when,value,temp,no\na,2013-01-01,1,7,e1\n")
    columns = Columns(series_id="id", timestamp="when", value="temp", event_id="no")
    assert read(path, columns).select("series_id", "timestamp", "value", "event_id").row(0) == (
        "a", "2013-01-01", "7", "e1",
    )  # fmt: skip


def test_an_event_id_column_with_another_role_is_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", LONG)
    with pytest.raises(DataError, match=r"data\.event_id = 'value' is the column of the series, the times"):
        read(path, Columns(event_id="value"))
    with pytest.raises(ValueError, match=r"data\.event_id and data\.value name the same column"):
        Columns(value="temp", event_id="temp")


def test_empty_cells_of_a_wide_file_give_no_row(tmp_path: Path) -> None:
    raw = read(write_file(tmp_path, "in.csv", WIDE))
    assert raw.select("series_id", "value", "row").rows() == [
        ("a", "1", 1), ("b", "x", 2), ("a", "3", 3), ("b", "4", 3),
    ]  # fmt: skip
    good, bad = validate(raw)
    assert good.height == 3
    assert bad["reason"].to_list() == ["'x' is not a number"]


def test_wide_files_need_no_known_time_column_name(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", WIDE.replace("time", "hour of day"))
    assert check(path).layout.timestamp == "hour of day"
    path = write_file(tmp_path, "pandas.csv", WIDE.replace("time", ""))
    assert check(path).layout.values == ("a", "b")


def test_an_unnamed_row_number_column_is_not_a_series(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", ",time,a\n0,2013-01-01,1\n")
    assert check(path).layout.values == ("a",)


def write_gzipped(frame: pl.DataFrame, path: Path) -> None:
    path.write_bytes(gzip.compress(frame.write_csv().encode()))


CELLS = st.none() | st.floats(-1e6, 1e6)
TABLES = st.lists(
    st.tuples(st.sampled_from("abc"), st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)), CELLS),
    min_size=1, max_size=30,
)  # fmt: skip
WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    "in.csv": lambda f, p: f.write_csv(p),
    "in.tsv": lambda f, p: f.write_csv(p, separator="\t"),
    "in.csv.gz": write_gzipped,
    "in.parquet": lambda f, p: f.write_parquet(p, row_group_size=7),
    "in.jsonl": lambda f, p: f.write_ndjson(p),
}


@given(TABLES, st.integers(1, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_file_format_and_batch_size_gives_the_same_observations(
    tmp_path: Path, table: list[tuple[str, datetime, float | None]], batch_rows: int
) -> None:
    frame = pl.DataFrame(table, schema=["series_id", "timestamp", "value"], orient="row").with_columns(
        pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("value").cast(pl.Float64),
    )
    expected, rejected = validate(frame)
    for name, write in WRITERS.items():
        write(frame, tmp_path / name)
        parts = list(read_batches(tmp_path / name, batch_rows=batch_rows))
        assert all(part.height <= batch_rows for part in parts)
        raw = pl.concat(parts)
        assert raw["row"].to_list() == list(range(1, frame.height + 1))
        good, bad = validate(raw)
        assert good.equals(expected), name
        assert bad["row"].equals(rejected["row"]), name


@given(st.lists(st.sampled_from(["a,2013-01-01,1", "a,2013-01-01", "a,2013-01-01,1,5", "x"]), max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_with_too_few_or_many_cells_are_rejected(tmp_path: Path, lines: list[str]) -> None:
    path = write_file(tmp_path, "in.csv", "\n".join(["series_id,timestamp,value", *lines]) + "\n")
    parts = list(read_batches(path, batch_rows=3))
    if not lines:
        assert parts == []
        return
    raw = pl.concat(parts, how="diagonal")
    assert raw["row"].to_list() == list(range(1, len(lines) + 1))
    bad = validate(raw)[1] if "problem" in raw.columns else validate(raw)[1].clear()
    assert bad["row"].to_list() == [i for i, line in enumerate(lines, 1) if line.count(",") != 2]
    assert all("cells where the header has 3" in reason for reason in bad["reason"])


def test_row_numbers_count_broken_rows_across_read_blocks(tmp_path: Path) -> None:
    line = "a,2013-01-01T00:00:00Z,1.25\n"
    # The reader reads blocks of 1 MiB, so let the file be longer than one block.
    lines = [line if i % 1000 else "broken\n" for i in range(1, 150_001)]
    raw = read(
        write_file(tmp_path, "in.csv", "series_id,timestamp,value\n" + "".join(lines)), batch_rows=10_000
    )
    assert raw["row"].to_list() == list(range(1, 150_001))
    assert raw.filter(pl.col("problem").is_not_null())["row"].to_list() == list(range(1000, 150_001, 1000))


def test_the_argument_skip_rows_omits_the_first_data_rows(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", WIDE)
    assert pl.concat(list(read_batches(path, skip_rows=2)))["row"].to_list() == [3, 3]


def test_wide_parquet_keeps_dotted_column_names_as_series_ids(tmp_path: Path) -> None:
    times = [datetime(2013, 1, 1, h, tzinfo=UTC) for h in range(2)]
    frame = pl.DataFrame({"time": times, "EWR.temp": [1.0, math.nan], "EWR": [2, None]})
    frame.write_parquet(tmp_path / "in.parquet")
    good, bad = validate(read(tmp_path / "in.parquet"))
    assert good["series_id"].to_list() == ["EWR.temp", "EWR"]
    assert bad["reason"].to_list() == ["value is NaN"]


def test_nan_in_json_lines_is_quarantined(tmp_path: Path) -> None:
    text = '{"unique_id":"a","ds":"2013-01-01","y":NaN}\n\n{"y":1.10,"ds":1357020000,"unique_id":7}\n'
    good, bad = validate(read(write_file(tmp_path, "in.ndjson", text)))
    assert bad.select("row", "reason").rows() == [(1, "value is NaN")]
    assert good.rows() == [("7", datetime(2013, 1, 1, 6, tzinfo=UTC), 1.1)]


def test_times_without_zone_give_a_notice_that_names_utc(tmp_path: Path) -> None:
    wide = write_file(tmp_path, "wide.csv", WIDE)
    assert check(wide).notices == ["times have no zone, UTC assumed"]
    assert check(write_file(tmp_path, "long.csv", LONG)).notices == []


def test_a_file_with_only_a_header_has_no_rows(tmp_path: Path) -> None:
    path = write_file(tmp_path, "in.csv", "series_id,timestamp,value\n")
    assert list(read_batches(path)) == []
    assert not check(path).lacks_zone


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"", "FILE: is empty"),
        ("in.csv", b"\n\n", "FILE: is empty"),
        ("in.jsonl", b"\n", "FILE: is empty"),
        ("in.parquet", b"", "FILE: is empty"),
        ("in.docx", b"PK", "FILE: is of no known kind, .docx; only CSV, Parquet, JSON lines or Excel"),
        ("in.xlsx", b"PK", "FILE: is incomplete or not a spreadsheet"),
        ("in.csv", b"\x00\x01\x02", "FILE: is not a CSV file: its first line is not text"),
        ("in.csv", b"\x89PNG\r\n\x1a\n", "FILE: is not text in UTF-8: save it as UTF-8"),
        ("in.csv", b"series_id,timestamp,value\n\xc3\xa4,1,2\n\xff,1,2\n", "FILE: is not text in UTF-8"),
        ("in.csv.gz", b"series_id,timestamp,value\n", "FILE: is incomplete or not a gzip file"),
        ("in.csv", b"a,a\n1,2\n", "FILE: two columns are called 'a': rename one"),
        ("in.csv", b"item_id,when,y\na,x,1\n", "FILE: no column timestamp, ds, time, date, datetime, date_"),
        ("in.csv", b"unique_id,ds\na,x\n", "FILE: no column value, y or target; there is unique_id, ds: "),
        ("in.csv", b"just some text\nof no use\n", "FILE: no column timestamp, ds"),
        ("in.csv", b"time\n2013-01-01\n", "FILE: no column beside the time 'time'"),
        ("in.csv", b"time,city\n" + b"2013-01-01,Rome\n" * 20, "FILE: column 'city' holds text such as"),
        ("in.jsonl", b'{"a":1}\n{"a":\n', "FILE: line 2 is not a JSON object: correct or delete it"),
        ("in.jsonl", b"[1]\n", "FILE: line 1 is not a JSON object"),
        ("in.parquet", b"PAR1 and then nothing", "FILE: is incomplete or not a Parquet file"),
    ],
)  # fmt: skip
def test_an_unreadable_file_is_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    assert message_of_refusal(write_file(tmp_path, name, content)).startswith(message)


def test_the_error_names_a_missing_configured_column(tmp_path: Path) -> None:
    message = message_of_refusal(write_file(tmp_path, "in.csv", LONG), Columns(value="temp"))
    assert message == "FILE: no column 'temp' (data.value); there is series_id, timestamp, value"


def test_reading_observed_covariates_from_a_wide_file_is_refused(tmp_path: Path) -> None:
    heat = Columns(observed=("heat", "value"))
    path = write_file(tmp_path, "in.csv", b"series_id,timestamp,value,heat\na,2013-01-01,1,20\n")
    (raw,) = read_batches(path, heat)
    assert raw.row(0, named=True)["observed.heat"] == "20"
    assert raw.row(0, named=True)["observed.value"] == "1"
    message = message_of_refusal(write_file(tmp_path, "in.csv", LONG), heat)
    assert message == "FILE: no column 'heat' (covariates.observed); there is series_id, timestamp, value"
    wide = write_file(tmp_path, "in.csv", b"time,a,heat\n2013-01-01,1,20\n")
    message = message_of_refusal(wide, Columns(observed=("heat",)))
    assert message.startswith(
        "FILE: covariates.observed names 'heat', a column of each row, and this file is wide"
    )


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"series_id": ["a"], "timestamp": [0], "value": [1.0]}).write_parquet(
        tmp_path / "in.parquet"
    )
    whole = (tmp_path / "in.parquet").read_bytes()
    assert "is incomplete" in message_of_refusal(write_file(tmp_path, "in.parquet", whole[: len(whole) // 2]))


def test_the_error_names_the_number_of_a_bad_json_line(tmp_path: Path) -> None:
    line = json.dumps({"series_id": "a", "timestamp": "2013-01-01", "value": 1}) + "\n"
    path = write_file(tmp_path, "in.jsonl", line * 5000 + "\n{\n")
    check(path)
    batches = read_batches(path, batch_rows=1000)
    for _ in range(5):
        next(batches)
    with pytest.raises(DataError, match="line 5002 is not a JSON object"):
        next(batches)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert message_of_refusal(tmp_path / "none.csv") == "FILE: no such file"
    assert message_of_refusal(tmp_path) == "FILE: is a folder, not a file"
    if os.getuid():
        path = write_file(tmp_path, "in.csv", LONG)
        path.chmod(0)
        assert message_of_refusal(path).startswith("FILE: cannot be read (Permission denied)")


def test_input_folders_expand_to_their_files(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", ".hidden.csv", "_part.csv", "notes.md"):
        write_file(tmp_path, name, "x")
    (tmp_path / "_delta").mkdir()
    write_file(tmp_path / "_delta", "c.csv", "x")
    found = input_files([tmp_path, tmp_path / "b.csv"])
    assert [p.name for p in found] == ["a.parquet", "b.csv"]


def test_an_input_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input: name files or folders"):
        input_files([])
    with pytest.raises(DataError, match=r"none.csv: no such file or folder"):
        input_files([tmp_path / "none.csv"])
    with pytest.raises(DataError, match="no CSV, Parquet, JSON lines or Excel files"):
        input_files([tmp_path])
