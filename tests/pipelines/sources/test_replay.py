"""Tests of a replay, a source that returns the rows of files in the order of their timestamps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest

from forecaster.time.duplicates import Keep
from pipelines.sources import replay
from pipelines.sources.files import sorted_runs as runs
from pipelines.sources.files.tables import Columns
from schemas.errors import DataError
from tests.pipelines.sources.logs import (
    HOUR_US,
    START,
    read_log,
    reasons,
    values,
    watermark_hours,
    write_file,
)
from tests.pipelines.sources.small_replays import INPUT, replay_of, restarted


def test_rows_are_replayed_in_time_order_across_files(tmp_path: Path) -> None:
    b = write_file(tmp_path / "b.csv", [("a", 2.5, 3), ("b", 0.5, 1), ("a", 9.5, 5)])
    a = write_file(tmp_path / "a.csv", [("a", 5.5, 4), ("a", 0.75, 2)])
    batches = read_log(replay_of(b, a, windows_per_step=1))
    assert values(batches) == [1, 2, 3, 4, 5]
    assert [batch.rows["offset"].to_list() for batch in batches] == [[0, 1], [2], [3], [4]]
    assert watermark_hours(batches) == [1, 3, 6, 10]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_replayed_rows_of_equal_time_keep_their_input_order(tmp_path: Path, memory_bytes: int) -> None:
    files = [
        write_file(tmp_path / f"{i}.csv", [("a", 2, 0), *(("a", 1, -10 * i - j) for j in range(3))])
        for i in range(3)
    ]
    played_back = values(read_log(replay_of(*files, memory_bytes=memory_bytes)))
    assert played_back == [0, -1, -2, -10, -11, -12, -20, -21, -22, 0, 0, 0]


def test_replays_cut_batches_at_multiples_of_windows_per_step(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", h, h) for h in range(-2, 10)])
    batches = read_log(replay_of(file, windows_per_step=4))
    assert [len(batch.rows) for batch in batches] == [2, 4, 4, 2]
    assert watermark_hours(batches) == [0, 4, 8, 10]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_a_row_limit_ends_replay_batches_at_window_ends(tmp_path: Path, memory_bytes: int) -> None:
    file = write_file(tmp_path / "a.csv", [(f"s{s}", h, h) for h in range(8) for s in range(3)])
    input_settings = replace(INPUT, batch_rows=4)
    with mock.patch.object(replay, "_BATCH_ROWS", 5), mock.patch.object(runs, "_FRAME_ROWS", 4):
        batches = read_log(replay_of(file, input=input_settings, memory_bytes=memory_bytes))
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 6), (6, 12), (12, 15), (15, 21), (21, 24)]
    assert watermark_hours(batches) == [2, 4, 5, 7, 8]


def test_the_replay_watermark_trails_by_lateness_until_the_end(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", h, h) for h in range(4)])
    assert watermark_hours(read_log(replay_of(file, lateness_s=5400, windows_per_step=2))) == [0.5, 4]


def test_a_replay_has_no_batches_for_empty_windows(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", "1701-05-05", 1), ("a", 0, 2), ("a", 1, 3)])
    batches = read_log(replay_of(file))
    assert [values([batch]) for batch in batches] == [[1], [2, 3]]


def test_a_replay_begins_with_rejected_rows_and_no_watermark(tmp_path: Path) -> None:
    rows = [("a", "9999-01-01", 8), ("a", 0, 1), ("a", 500, "x"), ("a", "2225-01-01", 9), ("a", 1, 2)]
    batches = read_log(replay_of(write_file(tmp_path / "a.csv", rows)))
    assert [batch.rejected["offset"].to_list() for batch in batches] == [[0, 1, 2], []]
    assert reasons(batches) == [
        "'9999-01-01' is outside the years 1678 to 2261",
        "'x' is not a number",
        "'2225-01-01' is more than 1h in the future",
    ]
    assert batches[0].rejected["row"].to_list() == [1, 3, 4]
    assert watermark_hours(batches) == [None, 2]
    assert values(batches) == [1, 2]


def test_a_replay_gives_rejected_rows_before_reading_all_files(tmp_path: Path) -> None:
    files = [write_file(tmp_path / f"{i}.csv", [("a", i, "x")]) for i in range(3)]
    source = replay_of(*files)
    first = source.step(0)
    assert first is not None
    assert len(first.batches[0].rejected) == 1
    files[2].unlink()
    with pytest.raises(DataError, match=r"2\.csv: no such file"):
        read_log(source, first.reached)
    # Another read from the same offset must raise the error again, and must not report the log's end.
    with pytest.raises(DataError, match=r"2\.csv: no such file"):
        read_log(source, first.reached)


def test_only_the_first_batch_counts_rows_outside_time_bounds(tmp_path: Path) -> None:
    rows = [*(("a", h, h) for h in range(5)), ("a", "never", "x"), *(("a", h, h) for h in range(5, 10))]
    bounds = replace(INPUT, start_us=(START + 3) * HOUR_US, end_us=(START + 6) * HOUR_US, batch_rows=1_000)
    source = replay_of(write_file(tmp_path / "a.csv", rows), input=bounds, windows_per_step=2)
    batches = read_log(source)
    assert values(batches) == [3, 4, 5]
    assert [batch.outside for batch in batches] == [7, 0, 0]
    assert [batch.outside for batch in read_log(restarted(source), 1)] == [0, 0]
    file = write_file(tmp_path / "b.csv", [("a", h, h) for h in range(10)])
    assert [batch.outside for batch in read_log(replay_of(file, input=bounds))] == [7]
    # Only the batch at offset 0 counts the rows outside the time range; the batch at offset 1 counts none.
    rest = read_log(replay_of(file, input=bounds), 1)
    assert [batch.outside for batch in rest] == [0]


@pytest.mark.parametrize("rows", [[], [("a", 90, 1)], [("a", "never", 9)]])
def test_a_replay_without_usable_rows_returns_batches_without_rows(tmp_path: Path, rows: list[Any]) -> None:
    bounds = replace(INPUT, end_us=(START + 6) * HOUR_US)
    source = replay_of(write_file(tmp_path / "a.csv", rows), input=bounds)
    *_, last = batches = read_log(source)
    assert (last.start, last.stop, len(last.rows)) == (len(batches) - 1, len(batches), 0)
    assert all(batch.watermark_us is None for batch in batches)
    assert sum(batch.outside for batch in batches) == (rows == [("a", 90, 1)])
    assert source.step(last.stop) is None
    assert restarted(source).step(last.stop) is None


def test_text_files_and_parquet_files_form_one_replay(tmp_path: Path) -> None:
    text = write_file(tmp_path / "a.csv", [("a", 1, 1.5)])
    at = datetime.fromtimestamp((START + 2) * 3600, UTC)
    typed = tmp_path / "b.parquet"
    pl.DataFrame({"series_id": ["a"], "timestamp": [at], "value": [2.5]}).write_parquet(typed)
    assert values(read_log(replay_of(text, typed))) == [1.5, 2.5]


def test_bad_files_are_quarantined_only_with_skip_bad_files(tmp_path: Path) -> None:
    good = write_file(tmp_path / "a.csv", [("a", 1, 1)])
    whole = b"".join(b'{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' for _ in range(20))
    # The file must be rejected as a whole: the valid rows before the bad line must not be used either.
    bad = write_file(tmp_path / "b.jsonl", whole + b'{"series_id": \n')
    with pytest.raises(DataError, match=r"b\.jsonl: line 21 is not a JSON object"):
        replay_of(bad, good).step(0)
    skipping = replace(INPUT, skip_bad_files=True, batch_rows=5)
    batches = read_log(replay_of(bad, good, input=skipping))
    assert values(batches) == [1]
    assert batches[0].rejected.drop("reason").rows() == [(str(bad), 0, "", "file cannot be read", "", 0)]
    assert reasons(batches) == ["line 21 is not a JSON object: correct or delete it"]


@pytest.mark.parametrize("memory_bytes", [2 << 30, 2000])
@pytest.mark.parametrize(("keep", "dropped"), [("last", {0: 10.0, 2: 30.0}), ("first", {4: 0.0, 5: 2.0})])
def test_file_order_decides_which_event_version_counts_in_replays(
    keep: Keep, dropped: dict[int, float], memory_bytes: int, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    header = "series_id,timestamp,value,event_id\n"
    first.write_text(header + "".join(f"a,2013-01-01T{5 + i:02}:00Z,{i},e{i}\n" for i in range(4)))
    # The second version of e0 has a later time, and that of e2 an earlier time.
    # Series a and series b have different events with the same id, e3.
    second.write_text(
        header + "a,2013-01-01T20:00Z,10,e0\na,2013-01-01T01:00Z,30,e2\nb,2013-01-01T08:00Z,7,e3\n"
    )
    how = replace(INPUT, columns=Columns(event_id="event_id", duplicates=keep), batch_rows=2)
    source = replay_of(first, second, input=how, memory_bytes=memory_bytes)
    rows = pl.concat([batch.rows for batch in read_log(source)])
    assert rows["timestamp"].is_sorted()
    lost = rows.filter(pl.col("dropped_at").is_not_null())
    assert dict(lost.select("dropped_at", "replaced_by").iter_rows()) == dropped
