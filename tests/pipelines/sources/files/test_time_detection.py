"""Tests that the format of a file's times is detected, and that ambiguous times are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.time.frequency import Frequency
from pipelines.sources.files import tables
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.time_detection import PATTERNS
from pipelines.sources.files.validated_rows import Input, Part, read_file
from pipelines.sources.replay import ReplaySource
from schemas.errors import DataError
from tests.pipelines.sources.logs import read_log, write_file
from tests.pipelines.sources.watched import watch


def write(folder: Path, times: list[str], name: str = "f.csv", quoted: bool = False) -> Path:
    sign = '"' if quoted else ""
    lines = [f"a,{sign}{time}{sign},{i}" for i, time in enumerate(times)]
    return write_file(folder / name, "\n".join(["series_id,timestamp,value", *lines, ""]))


def parts(path: Path, columns: Columns | None = None, batch_rows: int = 200_000) -> list[Part]:
    return list(read_file(path, Input(columns or Columns(), batch_rows=batch_rows), 1.8e9))


def times_of(found: list[Part]) -> list[datetime]:
    return [time.replace(tzinfo=None) for part in found for time in part.rows["timestamp"]]


@pytest.mark.parametrize(
    ("times", "read"),
    [
        (["1/31/2010 0:00", "2/1/2010 13:05"], [datetime(2010, 1, 31), datetime(2010, 2, 1, 13, 5)]),
        (["31/1/2010", "1/2/2010"], [datetime(2010, 1, 31), datetime(2010, 2, 1)]),
        (["31.01.2010 14:05", "01.02.2010 00:00"], [datetime(2010, 1, 31, 14, 5), datetime(2010, 2, 1)]),
        (["01.02.2010 00:00"], [datetime(2010, 2, 1)]),
        (["2004/3/10 18:00", "2004/3/11 2:30"], [datetime(2004, 3, 10, 18), datetime(2004, 3, 11, 2, 30)]),
        (["2004-3-10 18:00", "2004-3-1 9:00"], [datetime(2004, 3, 10, 18), datetime(2004, 3, 1, 9)]),
        (["Jan 31, 2010 2:05 PM"], [datetime(2010, 1, 31, 14, 5)]),
        (["January 31, 2010 2:05 AM"], [datetime(2010, 1, 31, 2, 5)]),
        (["1/31/2010, 2:05:10 PM"], [datetime(2010, 1, 31, 14, 5, 10)]),
        (["31-Jan-2010 14:05:09"], [datetime(2010, 1, 31, 14, 5, 9)]),
        (["01-FEB-2010 00:00:00"], [datetime(2010, 2, 1)]),
        (["1/31/10 0:00"], [datetime(2010, 1, 31)]),
        (["1/31/2010 14:05:10.250"], [datetime(2010, 1, 31, 14, 5, 10, 250_000)]),
        (["44927", "44927.25"], [datetime(2023, 1, 1), datetime(2023, 1, 1, 6)]),
    ],
)  # fmt: skip
def test_the_format_of_times_is_detected(tmp_path: Path, times: list[str], read: list[datetime]) -> None:
    path = write(tmp_path, times, quoted="," in times[0])
    found = parts(path)
    assert times_of(found) == read
    assert not any(len(part.rejected) for part in found)
    assert tables.check(path).lacks_zone
    (line,) = tables.check(path).file_notices
    setting = line.split("'")[1]
    assert times_of(parts(path, Columns(time_format=setting))) == read
    assert tables.check(path, Columns(time_format=setting)).file_notices == ()


@pytest.mark.parametrize(
    ("times", "readings"),
    [
        (
            ["1/2/2010 0:00", "12/11/2010 5:00"],
            "set data.time_format = '%m/%d/%Y %H:%M' (2010-01-02) or '%d/%m/%Y %H:%M' (2010-02-01)",
        ),
        (["01-02-2010"], "set data.time_format = '%m-%d-%Y' (2010-01-02) or '%d-%m-%Y' (2010-02-01)"),
        (["1/1/2010", "2/2/2010"], "set data.time_format = '%m/%d/%Y' (2010-01-01) or"),
        (["31/01/10"], "set data.time_format = '%d/%m/%y' (2010-01-31) or '%y/%m/%d' (2031-01-10)"),
        (["31/1/2010", "1/31/2010"], "have several forms, such as '1/31/2010' and '31/1/2010'"),
        (["31.1.2010", "1.2.2010 5:00"], "have several forms, such as '31.1.2010' and '1.2.2010 5:00'"),
    ],
)
def test_ambiguous_or_mixed_time_formats_are_refused(tmp_path: Path, times: list[str], readings: str) -> None:
    path = write(tmp_path, times)
    for read in (tables.check, parts):
        with pytest.raises(DataError) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: the times in column 'timestamp'")
        assert readings in str(refused.value)


def test_the_setting_time_format_resolves_ambiguous_times(tmp_path: Path) -> None:
    path = write(tmp_path, ["1/2/2010", "3/4/2010"])
    for pattern, read in (("%m/%d/%Y", datetime(2010, 1, 2)), ("%d/%m/%Y", datetime(2010, 2, 1))):
        assert times_of(parts(path, Columns(time_format=pattern)))[0] == read


def test_a_day_above_12_anywhere_decides_the_time_format(tmp_path: Path) -> None:
    path = write(tmp_path, ["1/2/2010"] * 5_000 + ["1/13/2010"])
    assert set(times_of(parts(path, batch_rows=700))) == {datetime(2010, 1, 2), datetime(2010, 1, 13)}
    write(tmp_path, ["1/2/2010"] * 5_000 + ["1/13/2010", "13/1/2010"])
    with pytest.raises(DataError, match="have several forms"):
        parts(path, batch_rows=700)


def test_times_not_in_the_detected_format_are_quarantined(tmp_path: Path) -> None:
    (part,) = parts(write(tmp_path, ["soon", "1/31/2010 0:00", "", "2/1/2010 1:00", "44927"]))
    assert times_of([part]) == [datetime(2010, 1, 31), datetime(2010, 2, 1, 1)]
    assert part.rejected["kind"].to_list() == ["is not a time", "time is missing", "is not a time"]
    assert part.rejected["row"].to_list() == [1, 3, 5]


@pytest.mark.parametrize("last", ["15000", "100000", "7"])
def test_numbers_outside_the_range_of_spreadsheet_dates_are_refused(tmp_path: Path, last: str) -> None:
    path = write(tmp_path, ["44927", "44928", last])
    with pytest.raises(DataError, match=r"have several forms|none of the times .* can be read"):
        tables.check(path)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)), min_size=1, max_size=20),
)
def test_a_detected_format_reads_the_times_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, times: list[datetime]
) -> None:
    written = pl.Series(times, dtype=pl.Datetime("us")).dt.strftime(pattern)
    has_clock = "%H" in pattern or "%I" in pattern
    days = [datetime(t.year, t.month, t.day) for t in times]
    expected = written.str.to_datetime(pattern, time_unit="us").to_list() if has_clock else days
    path = write(tmp_path_factory.mktemp("f"), written.to_list(), quoted=True)
    refusal = ""
    try:
        found = times_of(parts(path))
    except DataError as refused:
        refusal, found = str(refused), expected
    assert not refusal or ("can be read in" in refusal and f"'{pattern}'" in refusal)
    assert found == expected


def test_watching_and_replaying_files_give_the_same_rows(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    source = watch(inbox, input=Input(Columns(), skip_bad_files=True))
    write(inbox, ["1/31/2010 0:00", "2/1/2010 1:00", "soon"], "a.csv")
    write(inbox, ["1/2/2010 0:00"], "b.csv")
    write(inbox, ["31.12.2010"], "c.csv")
    watched = read_log(source)
    paths = tuple(str(inbox / name) for name in ("a.csv", "b.csv", "c.csv"))
    replayed = read_log(ReplaySource(paths, source.input, Frequency(3600)))

    def rows(batches: list, part: str, *names: str) -> list:  # type: ignore[type-arg]
        return sorted(row for batch in batches for row in getattr(batch, part).select(names).rows())

    assert rows(watched, "rows", "timestamp", "value") == rows(replayed, "rows", "timestamp", "value")
    assert [t.date().isoformat() for t, _ in rows(watched, "rows", "timestamp", "value")] == [
        "2010-01-31", "2010-02-01", "2010-12-31"
    ]  # fmt: skip
    both = [rows(some, "rejected", "file", "row", "kind", "reason") for some in (watched, replayed)]
    assert both[0] == both[1]
    assert [(row, kind) for _, row, kind, _ in both[0]] == [(3, "is not a time"), (0, "file cannot be read")]


def test_a_wide_file_whose_time_column_has_no_usual_name_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "w.csv", "Uhrzeit;north;south\n31.01.2010 14:05;1,5;2,5\n")
    (part,) = parts(path)
    assert part.rows.sort("series_id").select("series_id", "timestamp", "value").rows() == [
        ("north", datetime(2010, 1, 31, 14, 5, tzinfo=UTC), 1.5),
        ("south", datetime(2010, 1, 31, 14, 5, tzinfo=UTC), 2.5),
    ]
