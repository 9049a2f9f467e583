"""Tests of a source that watches a folder for new files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import polars as pl
import pytest

from pipelines.sources.base import Step
from pipelines.sources.files.tables import Columns
from schemas.errors import DataError
from tests.pipelines.sources.logs import (
    HOUR_US,
    NOW_S,
    START,
    read_log,
    reasons,
    values,
    watermark_hours,
    write_file,
)
from tests.pipelines.sources.watched import (
    INPUT,
    ONE_ROW,
    advance_clock,
    restarted,
    watch,
    write_parquet_file,
)


def test_watched_files_are_read_once_in_name_order(inbox: Path) -> None:
    write_file(inbox / "2.csv", [("a", 2.5, 2), ("a", 2.6, 2.5)])
    write_file(inbox / "1.csv", [("a", 1.5, 1)])
    source = watch(inbox)
    batches = read_log(source)
    assert values(batches) == [1, 2, 2.5]
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 1), (1, 3)]
    advance_clock(source, 1)
    write_file(inbox / "3.csv", [("a", 3.5, 3)])
    write_file(inbox / "0.csv", [("a", 0.5, 0)])
    assert values(read_log(restarted(source), 3)) == [0, 3]
    assert read_log(restarted(source), 5) == []


def test_an_empty_watched_folder_is_listed_again_after_poll_s(inbox: Path) -> None:
    source = watch(inbox, poll_s=4.0)
    assert source.step(0) == Step((), 0, 4.0)
    write_file(inbox / "1.csv", [("a", 1, 1)])
    advance_clock(source, 3)
    assert source.step(0) == Step((), 0, 1.0)
    advance_clock(source, 1)
    assert values(read_log(source)) == [1]


def test_the_first_listing_of_a_watched_folder_finds_all_files(inbox: Path) -> None:
    for i in range(20):
        write_file(inbox / f"{i:02}.csv", [("a", i, i)])
    with mock.patch("os.scandir", side_effect=os.scandir) as scans:
        assert values(read_log(watch(inbox))) == list(range(20))
    assert scans.call_count == 2  # the first listing finds all files, the second finds no new file


def test_the_watermark_moves_only_at_the_end_of_files(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", 4.5, 1), ("a", 2.0, 1), ("a", 4, 1)])
    write_file(inbox / "2.csv", [("a", 3.5, 1)])
    write_file(inbox / "3.csv", [("a", 7.0, 1)])
    batches = read_log(watch(inbox, lateness_s=3600, input=replace(INPUT, batch_rows=2)))
    assert watermark_hours(batches) == [None, 3.5, 3.5, 6]
    assert [len(batch.rows) for batch in batches] == [2, 1, 1, 1]


def test_the_watermark_ignores_rejected_rows_and_never_passes_the_clock(inbox: Path) -> None:
    now = (NOW_S / 3600) - START
    write_file(inbox / "1.csv", [("a", 1.5, 1), ("a", 212 * 8766, 3), ("b", 9000, "x"), ("b", "never", 1)])
    write_file(inbox / "2.csv", [("a", now + 0.75, 4)])
    write_file(inbox / "3.csv", [("a", now + 1.25, 5)])
    batches = read_log(watch(inbox))
    assert watermark_hours(batches) == [1.5, pytest.approx(now), pytest.approx(now)]
    assert values(batches) == [1, 4]
    assert batches[0].rejected.select("row", "column").rows() == [
        (2, "timestamp"),
        (3, "value"),
        (4, "timestamp"),
    ]
    assert "more than 1h in the future" in reasons(batches)[0]
    assert "more than 1h in the future" in reasons(batches)[3]


def test_hidden_and_unknown_files_are_not_read(inbox: Path) -> None:
    for name in (".1.csv", "_1.csv", ".2.parquet.tmp", "README", "1.csv.part"):
        write_file(inbox / name, [("a", 1, 1)])
    (inbox / "folder.csv").mkdir()
    source = watch(inbox)
    assert read_log(source) == []
    os.rename(inbox / "_1.csv", inbox / "1.csv")
    advance_clock(source, 1)
    assert values(read_log(source)) == [1]


def test_each_left_out_folder_entry_becomes_one_rejected_row(inbox: Path) -> None:
    for name in ("_1.csv", ".2.parquet.tmp", "README", "3.csv.rar"):
        write_file(inbox / name, [("a", 1, 1)])
    (inbox / "folder").mkdir()
    source = watch(inbox)
    assert read_log(source) == []
    advance_clock(source, 9)
    assert read_log(source) == []
    os.rename(inbox / ".2.parquet.tmp", inbox / "2.csv")
    advance_clock(source, 2)
    batches = read_log(source)
    assert values(batches) == [1]
    rejected = pl.concat([batch.rejected for batch in batches])
    assert [Path(file).name for file in rejected["file"]] == ["3.csv.rar", "README", "_1.csv", "folder"]
    assert set(rejected["row"]) == {0}
    assert all(reason.startswith("left out: ") for reason in rejected["reason"])
    write_file(inbox / "README", [("a", 2, 2)])
    advance_clock(source, 100)
    assert read_log(source, batches[-1].stop) == []  # no file is rejected again, not even the changed README
    assert reasons(read_log(restarted(source))) == reasons(batches)


@pytest.mark.parametrize("layout", ["auto", "wide"])
def test_watched_files_that_name_no_series_need_layout_wide(inbox: Path, layout: str) -> None:
    for name in ("a.csv", "b.csv"):
        write_file(inbox / name, "time,value\n2013-01-01T05:00Z,1\n")
    input_settings = replace(INPUT, columns=Columns.model_validate({"layout": layout}))
    source = watch(inbox, input=input_settings)
    read_log(source)
    advance_clock(source, 20)
    batches = read_log(restarted(source))
    assert values(batches) == ([] if layout == "auto" else [1, 1])
    assert all("no column names the series of the values" in reason for reason in reasons(batches))


def test_rereading_a_grown_file_keeps_origins_of_earlier_rows(inbox: Path) -> None:
    """The origin of a row identifies its file and its position in the file."""
    write_file(inbox / "1.csv", [("a", 1, 1), ("a", 1, 1)])
    write_file(inbox / "2.csv", [("a", 1, 1)])
    source = watch(inbox)
    first = read_log(source)
    advance_clock(source, 100)
    write_file(inbox / "1.csv", [("a", 1, 1), ("a", 1, 1), ("a", 1, 1)], age_s=-50)
    again = read_log(source, first[-1].stop)
    origins = [batch.rows["origin"].to_list() for batch in [*first, *again]]
    assert origins[2][:2] == origins[0]
    assert len({*origins[1], *origins[2]}) == 4
    assert [batch.rows["origin"].to_list() for batch in read_log(restarted(source), 2)] == origins[1:]


def test_a_watched_file_with_changed_content_is_read_again(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    assert values(read_log(source)) == [1]
    advance_clock(source, 100)
    write_file(inbox / "1.csv", [("a", 2, 2)], age_s=-50)
    assert values(read_log(restarted(source), 1)) == [2]


def test_cells_of_a_wide_row_share_one_offset(inbox: Path) -> None:
    wide = "time,a,b,c\n" + "".join(f"2013-01-01T{h:02}:00:00Z,{h},{h},\n" for h in range(5))
    write_file(inbox / "1.csv", wide + "2013-01-02,,,\n")
    batches = read_log(watch(inbox, input=replace(INPUT, batch_rows=4)))
    assert [batch.rows["offset"].to_list() for batch in batches] == [[i, i] for i in range(5)]
    assert [(batch.start, batch.stop) for batch in batches] == [(i, i + 1) for i in range(5)]


def test_a_watched_file_without_rows_takes_one_offset(inbox: Path) -> None:
    write_file(inbox / "1.csv", [])
    write_parquet_file(inbox / "2.parquet", ONE_ROW.clear())
    batches = read_log(watch(inbox))
    assert [(batch.start, batch.stop, batch.watermark_us) for batch in batches] == [
        (0, 1, None),
        (1, 2, None),
    ]


def test_each_batch_counts_its_rows_outside_the_time_bounds(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", h, h) for h in range(6)])
    bounds = replace(INPUT, start_us=(START + 3) * HOUR_US, batch_rows=2)
    source = watch(inbox, input=bounds)
    batches = read_log(source)
    assert [batch.outside for batch in batches] == [2, 1, 0]
    assert values(batches) == [3, 4, 5]
    assert [batch.outside for batch in read_log(restarted(source), 1)] == [1, 1, 0]


def test_rows_have_the_arrival_time_of_the_folder_listing(inbox: Path) -> None:
    for i in (1, 2):
        write_file(inbox / f"{i}.csv", [("a", i, i)])
    source = watch(inbox)
    first = read_log(source, steps=1)
    advance_clock(source, 30)
    assert [batch.arrived_s for batch in [*first, *read_log(source, 1)]] == [NOW_S, NOW_S]
    assert [batch.arrived_s for batch in read_log(restarted(source))] == [NOW_S, NOW_S]


def test_deleting_a_watched_folder_raises_an_error(inbox: Path) -> None:
    source = watch(inbox)
    inbox.rmdir()
    with pytest.raises(DataError, match="the watched folder cannot be listed"):
        source.step(0)


def test_a_watched_folder_that_may_not_be_searched_raises_an_error(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(entry: object) -> str:
        raise PermissionError(13, "Permission denied")

    write_file(inbox / "1.csv", [("a", 1, 1)])
    # A changed folder permission would not fail a test that runs as root. So the test replaces a function
    # that is called for each file by one that raises the error.
    monkeypatch.setattr("pipelines.sources.files.listing._why_left_out", refuse)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\)"):
        watch(inbox).step(0)
