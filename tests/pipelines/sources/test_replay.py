from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest

from pipelines.sources import replay
from pipelines.sources.files import sorted_runs as runs
from schemas.errors import DataError
from tests.pipelines.sources.logs import HOUR_US, START, hours, played, put, reasons, values
from tests.pipelines.sources.small_replays import ALL, restarted, source


def test_rows_come_in_the_order_of_their_times_whatever_file_they_are_in(tmp_path: Path) -> None:
    b = put(tmp_path / "b.csv", [("a", 2.5, 3), ("b", 0.5, 1), ("a", 9.5, 5)])
    a = put(tmp_path / "a.csv", [("a", 5.5, 4), ("a", 0.75, 2)])
    batches = played(source(b, a, windows_per_step=1))
    assert values(batches) == [1, 2, 3, 4, 5]
    assert [batch.rows["offset"].to_list() for batch in batches] == [[0, 1], [2], [3], [4]]
    assert hours(batches) == [1, 3, 6, 10]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_rows_of_one_time_come_in_the_order_of_the_files(tmp_path: Path, memory_bytes: int) -> None:
    files = [
        put(tmp_path / f"{i}.csv", [("a", 2, 0), *(("a", 1, -10 * i - j) for j in range(3))])
        for i in range(3)
    ]
    played_back = values(played(source(*files, memory_bytes=memory_bytes)))
    assert played_back == [0, -1, -2, -10, -11, -12, -20, -21, -22, 0, 0, 0]


def test_a_batch_ends_at_windows_of_a_grid(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", h, h) for h in range(-2, 10)])
    batches = played(source(file, windows_per_step=4))
    assert [len(batch.rows) for batch in batches] == [2, 4, 4, 2]
    assert hours(batches) == [0, 4, 8, 10]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_a_batch_of_many_rows_ends_earlier(tmp_path: Path, memory_bytes: int) -> None:
    file = put(tmp_path / "a.csv", [(f"s{s}", h, h) for h in range(8) for s in range(3)])
    how = replace(ALL, batch_rows=4)
    with mock.patch.object(replay, "_BATCH_ROWS", 5), mock.patch.object(runs, "_FRAME_ROWS", 4):
        batches = played(source(file, input=how, memory_bytes=memory_bytes))
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 6), (6, 12), (12, 15), (15, 21), (21, 24)]
    assert hours(batches) == [2, 4, 5, 7, 8]


def test_the_watermark_stays_behind_by_the_lateness_and_closes_all_at_the_end(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", h, h) for h in range(4)])
    assert hours(played(source(file, lateness_s=5400, windows_per_step=2))) == [0.5, 4]


def test_a_lone_row_years_away_makes_no_steps_between(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", "1701-05-05", 1), ("a", 0, 2), ("a", 1, 3)])
    batches = played(source(file))
    assert [values([batch]) for batch in batches] == [[1], [2, 3]]


def test_rejected_rows_come_first_and_move_neither_windows_nor_the_end(tmp_path: Path) -> None:
    rows = [("a", "9999-01-01", 8), ("a", 0, 1), ("a", 500, "x"), ("a", "2225-01-01", 9), ("a", 1, 2)]
    batches = played(source(put(tmp_path / "a.csv", rows)))
    assert [batch.rejected["offset"].to_list() for batch in batches] == [[0, 1, 2], []]
    assert reasons(batches) == [
        "'9999-01-01' is outside the years 1678 to 2261",
        "'x' is not a number",
        "'2225-01-01' is more than 1h in the future",
    ]
    assert batches[0].rejected["row"].to_list() == [1, 3, 4]
    assert hours(batches) == [None, 2]
    assert values(batches) == [1, 2]


def test_rejected_rows_come_while_the_files_are_still_read(tmp_path: Path) -> None:
    files = [put(tmp_path / f"{i}.csv", [("a", i, "x")]) for i in range(3)]
    one = source(*files)
    first = one.step(0)
    assert first is not None
    assert len(first.batches[0].rejected) == 1
    files[2].unlink()
    with pytest.raises(DataError, match=r"2\.csv: no such file"):
        played(one, first.offset)
    # asked again it does not say that it has ended
    with pytest.raises(DataError, match=r"2\.csv: no such file"):
        played(one, first.offset)


def test_rows_outside_the_bounds_are_counted_once(tmp_path: Path) -> None:
    rows = [*(("a", h, h) for h in range(5)), ("a", "never", "x"), *(("a", h, h) for h in range(5, 10))]
    bounds = replace(ALL, start_us=(START + 3) * HOUR_US, end_us=(START + 6) * HOUR_US, batch_rows=1_000)
    one = source(put(tmp_path / "a.csv", rows), input=bounds, windows_per_step=2)
    batches = played(one)
    assert values(batches) == [3, 4, 5]
    assert [batch.outside for batch in batches] == [7, 0, 0]
    assert [batch.outside for batch in played(restarted(one), 1)] == [0, 0]
    file = put(tmp_path / "b.csv", [("a", h, h) for h in range(10)])
    assert [batch.outside for batch in played(source(file, input=bounds))] == [7]
    assert [batch.outside for batch in played(source(file, input=bounds), 1)] == [0]  # from its middle


@pytest.mark.parametrize("rows", [[], [("a", 90, 1)], [("a", "never", 9)]])
def test_a_replay_without_good_rows_ends_with_an_empty_batch(tmp_path: Path, rows: list[Any]) -> None:
    bounds = replace(ALL, end_us=(START + 6) * HOUR_US)
    one = source(put(tmp_path / "a.csv", rows), input=bounds)
    *_, last = batches = played(one)
    assert (last.start, last.stop, len(last.rows)) == (len(batches) - 1, len(batches), 0)
    assert all(batch.watermark_us is None for batch in batches)
    assert sum(batch.outside for batch in batches) == (rows == [("a", 90, 1)])
    assert one.step(last.stop) is None
    assert restarted(one).step(last.stop) is None


def test_text_and_typed_files_are_played_as_one(tmp_path: Path) -> None:
    text = put(tmp_path / "a.csv", [("a", 1, 1.5)])
    at = datetime.fromtimestamp((START + 2) * 3600, UTC)
    typed = tmp_path / "b.parquet"
    pl.DataFrame({"series_id": ["a"], "timestamp": [at], "value": [2.5]}).write_parquet(typed)
    assert values(played(source(text, typed))) == [1.5, 2.5]


def test_a_bad_file_stops_a_replay_or_is_quarantined_as_a_whole(tmp_path: Path) -> None:
    good = put(tmp_path / "a.csv", [("a", 1, 1)])
    whole = b"".join(b'{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' for _ in range(20))
    bad = put(tmp_path / "b.jsonl", whole + b'{"series_id": \n')  # its first rows are not used either
    with pytest.raises(DataError, match=r"b\.jsonl: line 21 is no JSON object"):
        source(bad, good).step(0)
    skipping = replace(ALL, skip_bad_files=True, batch_rows=5)
    batches = played(source(bad, good, input=skipping))
    assert values(batches) == [1]
    assert batches[0].rejected.drop("reason").rows() == [(str(bad), 0, "", "file cannot be read", "", 0)]
    assert reasons(batches) == ["line 21 is no JSON object: correct or delete it"]
