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
from tests.pipelines.sources.logs import HOUR_US, NOW_S, START, hours, played, put, reasons, values
from tests.pipelines.sources.watched import ALL, PARQUET, later, parquet, restarted, watch


def test_each_file_is_read_once_in_the_order_of_names(inbox: Path) -> None:
    put(inbox / "2.csv", [("a", 2.5, 2), ("a", 2.6, 2.5)])
    put(inbox / "1.csv", [("a", 1.5, 1)])
    source = watch(inbox)
    batches = played(source)
    assert values(batches) == [1, 2, 2.5]
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 1), (1, 3)]
    later(source, 1)
    put(inbox / "3.csv", [("a", 3.5, 3)])
    put(inbox / "0.csv", [("a", 0.5, 0)])
    assert values(played(restarted(source), 3)) == [0, 3]
    assert played(restarted(source), 5) == []


def test_an_empty_folder_is_looked_at_again_later(inbox: Path) -> None:
    source = watch(inbox, poll_s=4.0)
    assert source.step(0) == Step((), 0, 4.0)
    put(inbox / "1.csv", [("a", 1, 1)])
    later(source, 3)
    assert source.step(0) == Step((), 0, 1.0)
    later(source, 1)
    assert values(played(source)) == [1]


def test_one_look_serves_many_files(inbox: Path) -> None:
    for i in range(20):
        put(inbox / f"{i:02}.csv", [("a", i, i)])
    with mock.patch("os.scandir", side_effect=os.scandir) as scans:
        assert values(played(watch(inbox))) == list(range(20))
    assert scans.call_count == 2  # and one that finds nothing new


def test_the_watermark_follows_the_newest_row_at_the_end_of_a_file(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 4.5, 1), ("a", 2.0, 1), ("a", 4, 1)])
    put(inbox / "2.csv", [("a", 3.5, 1)])
    put(inbox / "3.csv", [("a", 7.0, 1)])
    batches = played(watch(inbox, lateness_s=3600, input=replace(ALL, batch_rows=2)))
    assert hours(batches) == [None, 3.5, 3.5, 6]
    assert [len(batch.rows) for batch in batches] == [2, 1, 1, 1]


def test_rejected_rows_move_no_watermark_and_no_row_moves_it_past_the_clock(inbox: Path) -> None:
    now = (NOW_S / 3600) - START
    put(inbox / "1.csv", [("a", 1.5, 1), ("a", 212 * 8766, 3), ("b", 9000, "x"), ("b", "never", 1)])
    put(inbox / "2.csv", [("a", now + 0.75, 4)])
    put(inbox / "3.csv", [("a", now + 1.25, 5)])
    batches = played(watch(inbox))
    assert hours(batches) == [1.5, pytest.approx(now), pytest.approx(now)]
    assert values(batches) == [1, 4]
    assert batches[0].rejected.select("row", "column").rows() == [
        (2, "timestamp"),
        (3, "value"),
        (4, "timestamp"),
    ]
    assert "more than 1h in the future" in reasons(batches)[0]
    assert "more than 1h in the future" in reasons(batches)[3]


def test_hidden_names_folders_and_files_of_no_known_kind_are_left_alone(inbox: Path) -> None:
    for name in (".1.csv", "_1.csv", ".2.parquet.tmp", "README", "1.csv.part"):
        put(inbox / name, [("a", 1, 1)])
    (inbox / "folder.csv").mkdir()
    source = watch(inbox)
    assert played(source) == []
    os.rename(inbox / "_1.csv", inbox / "1.csv")
    later(source, 1)
    assert values(played(source)) == [1]


def test_what_stays_under_a_name_that_is_not_read_is_a_rejected_row(inbox: Path) -> None:
    for name in ("_1.csv", ".2.parquet.tmp", "README", "3.csv.zst"):
        put(inbox / name, [("a", 1, 1)])
    (inbox / "folder").mkdir()
    source = watch(inbox)
    assert played(source) == []
    later(source, 9)
    assert played(source) == []
    os.rename(inbox / ".2.parquet.tmp", inbox / "2.csv")
    later(source, 2)
    batches = played(source)
    assert values(batches) == [1]
    rejected = pl.concat([batch.rejected for batch in batches])
    assert [Path(file).name for file in rejected["file"]] == ["3.csv.zst", "README", "_1.csv", "folder"]
    assert set(rejected["row"]) == {0}
    assert all(reason.startswith("left out: ") for reason in rejected["reason"])
    put(inbox / "README", [("a", 2, 2)])
    later(source, 100)
    assert played(source, batches[-1].stop) == []  # once for each name
    assert reasons(played(restarted(source))) == reasons(batches)


@pytest.mark.parametrize("layout", ["auto", "wide"])
def test_a_file_that_does_not_name_its_series_is_not_read(inbox: Path, layout: str) -> None:
    for name in ("a.csv", "b.csv"):
        put(inbox / name, "time,value\n2013-01-01T05:00Z,1\n")
    how = replace(ALL, columns=Columns.model_validate({"layout": layout}))
    source = watch(inbox, input=how)
    played(source)
    later(source, 20)
    batches = played(restarted(source))
    assert values(batches) == ([] if layout == "auto" else [1, 1])
    assert all("no column says whose values these are" in reason for reason in reasons(batches))


def test_a_row_of_a_file_that_grew_is_known_by_its_place(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1), ("a", 1, 1)])
    put(inbox / "2.csv", [("a", 1, 1)])
    source = watch(inbox)
    first = played(source)
    later(source, 100)
    put(inbox / "1.csv", [("a", 1, 1), ("a", 1, 1), ("a", 1, 1)], age_s=-50)
    again = played(source, first[-1].stop)
    origins = [batch.rows["origin"].to_list() for batch in [*first, *again]]
    assert origins[2][:2] == origins[0]
    assert len({*origins[1], *origins[2]}) == 4
    assert [batch.rows["origin"].to_list() for batch in played(restarted(source), 2)] == origins[1:]


def test_a_file_of_the_same_name_and_other_content_is_new(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    assert values(played(source)) == [1]
    later(source, 100)
    put(inbox / "1.csv", [("a", 2, 2)], age_s=-50)
    assert values(played(restarted(source), 1)) == [2]


def test_all_cells_of_a_wide_row_share_an_offset_and_stay_together(inbox: Path) -> None:
    wide = "time,a,b,c\n" + "".join(f"2013-01-01T{h:02}:00:00Z,{h},{h},\n" for h in range(5))
    put(inbox / "1.csv", wide + "2013-01-02,,,\n")
    batches = played(watch(inbox, input=replace(ALL, batch_rows=4)))
    assert [batch.rows["offset"].to_list() for batch in batches] == [[i, i] for i in range(5)]
    assert [(batch.start, batch.stop) for batch in batches] == [(i, i + 1) for i in range(5)]


def test_a_file_without_rows_takes_an_offset_and_moves_no_watermark(inbox: Path) -> None:
    put(inbox / "1.csv", [])
    parquet(inbox / "2.parquet", PARQUET.clear())
    batches = played(watch(inbox))
    assert [(batch.start, batch.stop, batch.watermark_us) for batch in batches] == [
        (0, 1, None),
        (1, 2, None),
    ]


def test_rows_outside_the_bounds_are_counted_with_their_offsets(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", h, h) for h in range(6)])
    bounds = replace(ALL, start_us=(START + 3) * HOUR_US, batch_rows=2)
    source = watch(inbox, input=bounds)
    batches = played(source)
    assert [batch.outside for batch in batches] == [2, 1, 0]
    assert values(batches) == [3, 4, 5]
    assert [batch.outside for batch in played(restarted(source), 1)] == [1, 1, 0]


def test_rows_wait_from_the_look_that_found_their_file(inbox: Path) -> None:
    for i in (1, 2):
        put(inbox / f"{i}.csv", [("a", i, i)])
    source = watch(inbox)
    first = played(source, steps=1)
    later(source, 30)
    assert [batch.arrived_s for batch in [*first, *played(source, 1)]] == [NOW_S, NOW_S]
    assert [batch.arrived_s for batch in played(restarted(source))] == [NOW_S, NOW_S]


def test_a_watched_folder_that_is_gone_is_said_to_be(inbox: Path) -> None:
    source = watch(inbox)
    inbox.rmdir()
    with pytest.raises(DataError, match="the watched folder is gone"):
        source.step(0)
