from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources import folder as folders
from pipelines.sources.base import Step
from pipelines.sources.files import Input
from pipelines.sources.folder import FolderSource
from pipelines.sources.tables import Columns
from schemas.errors import DataError
from tests.pipelines.sources.logs import (
    HOUR_US,
    NOW_S,
    START,
    Clock,
    hours,
    played,
    put,
    reasons,
    text_of,
    told,
    values,
)

ALL = Input(Columns(), skip_bad_files=True, max_future_s=3600)
PARQUET = pl.DataFrame({"series_id": ["a"], "timestamp": ["2013-01-01T05:30:00Z"], "value": [7.0]})


def watch(inbox: Path, **changes: Any) -> FolderSource:
    inbox.mkdir(exist_ok=True)
    how: dict[str, Any] = {"input": ALL, "clock": Clock()} | changes
    return FolderSource(inbox, manifest_folder=inbox.parent / "out", **how)


def restarted(source: FolderSource) -> FolderSource:
    """The source in another process, at the same time."""
    return replace(source, clock=Clock(source.clock()))


def later(source: FolderSource, seconds: float) -> None:
    assert isinstance(source.clock, Clock)
    source.clock.now_s += seconds


def parquet(path: Path, frame: pl.DataFrame = PARQUET, age_s: float = 60) -> Path:
    frame.write_parquet(path)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


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


def test_what_was_the_future_when_a_file_came_stays_it(inbox: Path) -> None:
    now = (NOW_S / 3600) - START
    put(inbox / "1.csv", [("a", now + 1.5, 1)])
    source = watch(inbox)
    first = told(played(source))
    later(source, 1e6)
    assert told(played(restarted(source))) == first
    assert len(first[0][1]) == 1


def test_hidden_names_folders_and_files_of_no_known_kind_are_left_alone(inbox: Path) -> None:
    for name in (".1.csv", "_1.csv", ".2.parquet.tmp", "README", "1.csv.part"):
        put(inbox / name, [("a", 1, 1)])
    (inbox / "folder.csv").mkdir()
    source = watch(inbox)
    assert played(source) == []
    os.rename(inbox / "_1.csv", inbox / "1.csv")
    later(source, 1)
    assert values(played(source)) == [1]


def test_a_file_of_the_same_name_and_other_content_is_new(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    assert values(played(source)) == [1]
    later(source, 100)
    put(inbox / "1.csv", [("a", 2, 2)], age_s=-50)
    assert values(played(restarted(source), 1)) == [2]


@pytest.mark.parametrize("age_s", [0.5, -1e6])  # the second is dated in the future
def test_text_that_is_being_written_keeps_nobody_waiting(inbox: Path, age_s: float) -> None:
    put(inbox / "1.csv", [("a", 1, 1)], age_s=age_s)
    put(inbox / "2.csv", [("a", 2, 2)])
    source = watch(inbox)
    assert values(played(source)) == [2]
    later(source, 1)
    put(inbox / "1.csv", [("a", 1, 1), ("a", 1, 2)], age_s=age_s - (1 if age_s > 0 else 0))
    assert played(source, 1) == []
    later(source, 1)
    assert values(played(source, 1)) == [1, 2]


def test_a_last_line_that_is_not_there_yet_is_waited_for_a_while(inbox: Path) -> None:
    text = text_of([("a", 1, 1), ("a", 1.5, 25)])
    put(inbox / "1.csv", text[:-2], age_s=0)  # "a,...,2"
    put(inbox / "2.csv", [("a", 2, 2)])
    source = watch(inbox)
    later(source, 5)
    assert values(played(source)) == [2]
    put(inbox / "1.csv", text, age_s=-6)
    later(source, 2)
    assert values(played(source, 1)) == [1, 25]


def test_text_that_nobody_ends_is_taken_as_it_is(inbox: Path) -> None:
    put(inbox / "1.csv", text_of([("a", 1, 1), ("a", 1.5, 25)])[:-1], age_s=9)
    source = watch(inbox)
    assert played(source) == []
    later(source, 1)
    assert values(played(source)) == [1, 25]


def test_a_parquet_file_is_taken_as_soon_as_it_has_its_footer(inbox: Path) -> None:
    whole = parquet(inbox / "1.parquet").read_bytes()
    put(inbox / "1.parquet", whole[:-9], age_s=0)
    source = watch(inbox)
    assert played(source) == []
    put(inbox / "1.parquet", whole, age_s=0)
    later(source, 1)
    assert values(played(source)) == [7]


BROKEN: dict[str, Callable[[Path], object]] = {
    "no footer": lambda inbox: put(inbox / "2.parquet", parquet(inbox / ".x").read_bytes()[:-9], age_s=2),
    "half a gzip file": lambda inbox: put(
        inbox / "2.csv.gz", gzip.compress(text_of([("a", h, h) for h in range(900)]).encode())[:-200], age_s=2
    ),
    "half a JSON line": lambda inbox: put(
        inbox / "2.jsonl",
        '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' * 9 + '{"ser',
        age_s=0,
    ),
    "other columns": lambda inbox: put(inbox / "2.csv", "what,is,this\n1,2,3\n", age_s=2),
    "nothing": lambda inbox: put(inbox / "2.csv", "", age_s=2),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
def test_a_file_that_cannot_be_read_is_one_rejected_row_and_the_stream_goes_on(
    inbox: Path, kind: str, memory_bytes: int
) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    BROKEN[kind](inbox)
    put(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox, memory_bytes=memory_bytes, input=replace(ALL, batch_rows=2))
    assert values(played(source)) == [1, 3]  # a file that is young may still become whole
    later(source, 10)
    (batch,) = played(source, 2)
    assert (batch.start, batch.stop, len(batch.rows)) == (2, 3, 0)
    (bad,) = batch.rejected.rows(named=True)
    assert bad["file"].startswith(str(inbox / "2."))
    assert (bad["row"], bad["column"], bad["raw"], bad["offset"]) == (0, "", "", 2)
    assert bad["reason"]
    assert str(inbox) not in bad["reason"]
    assert batch.watermark_us == (START + 3) * HOUR_US
    later(source, 1)
    assert played(source, 3) == []
    assert told(played(restarted(source), 2), batch.watermark_us) == told([batch], batch.watermark_us)


def test_a_file_that_cannot_be_read_stops_the_stream_if_asked_to_with_nothing_of_it_used(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    half = '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' * 9
    put(inbox / "2.jsonl", half + '{"ser')
    put(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox, input=replace(ALL, skip_bad_files=False, batch_rows=2))
    assert values(played(source, steps=1)) == [1]
    for process in (source, restarted(source)):  # it is tried again, and not passed over
        for _ in range(2):
            with pytest.raises(DataError, match=r"2\.jsonl: line 10 is no JSON object"):
                process.step(1)
    put(inbox / "2.jsonl", half)
    assert values(played(restarted(source), 1)) == [5] * 9 + [3]


def test_a_file_that_vanishes_before_it_is_read_is_forgotten(inbox: Path) -> None:
    first, second = (put(inbox / f"{i}.csv", [("a", i, i)]) for i in (1, 2))
    put(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox)
    assert values(played(source, steps=1)) == [1]
    second.unlink()
    assert values(played(source, 1)) == [3]
    first.unlink()
    later(source, 1)
    assert played(source, 2) == []


@pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: put(p, [("a", 8, 8)] * 9, age_s=5)])
def test_a_file_that_is_gone_when_it_is_needed_again_is_a_rejected_row(
    inbox: Path, change: Callable[[Path], object]
) -> None:
    path = put(inbox / "1.csv", [("a", i, i) for i in range(6)])
    put(inbox / "2.csv", [("a", 7, 7)])
    source = watch(inbox, input=replace(ALL, batch_rows=2))
    whole = played(source)
    change(path)
    again = played(restarted(source), 2)
    assert reasons(again)[0] == "was read before, and is gone or another one now"
    assert [(batch.start, batch.stop, batch.watermark_us) for batch in again[:2]] == [
        (2, 6, whole[2].watermark_us),
        (6, 7, whole[3].watermark_us),
    ]
    assert values(again)[0] == 7


def test_a_large_file_that_changes_between_its_two_readings_keeps_its_offsets(inbox: Path) -> None:
    path = put(inbox / "1.csv", [("a", i, i) for i in range(6)])
    put(inbox / "2.csv", [("a", 7, 7)])
    source = watch(inbox, input=replace(ALL, batch_rows=2), memory_bytes=1)
    with mock.patch.object(folders, "_STEP_BYTES", 1):
        first = source.step(0)
        assert first is not None
        path.write_text("")
        batches = [*first.batches, *played(source, first.offset)]
    assert [(batch.start, batch.stop) for batch in batches][-1] == (6, 7)
    assert values(batches)[-1] == 7
    told(batches)


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


def test_a_line_that_a_crash_left_half_in_the_manifest_counts_for_nothing(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    played(source)
    manifest = inbox.parent / "out" / "folder.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + whole[:30])
    put(inbox / "2.csv", [("a", 2, 2)])
    assert values(played(restarted(source), 1)) == [2]
    assert len(manifest.read_bytes().splitlines()) == 2


def test_a_manifest_that_does_not_reach_or_cannot_be_read_is_refused(inbox: Path) -> None:
    put(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    played(source)
    with pytest.raises(DataError, match=r"folder\.jsonl: ends at row 1, but rows up to 5 were read"):
        restarted(source).step(5)
    (inbox.parent / "out" / "folder.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(DataError, match=r"folder\.jsonl: line 1 is no entry of a manifest"):
        restarted(source).step(0)


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


def test_a_source_travels_to_the_worker_that_reads(inbox: Path) -> None:
    source = FolderSource(inbox, ALL, inbox)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - Beam's way, within one process


LONG = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.one_of(st.integers(0, 9), st.just("never")), st.sampled_from([1, "x"])
    ),
    max_size=9,
).map(text_of)
WIDE = st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["1,2", "3,", ",", "4,x"])), max_size=6).map(
    lambda rows: "time,a,b\n" + "".join(f"2013-01-0{day},{cells}\n" for day, cells in rows)
)
BAD = st.sampled_from(["", "what,is,this\n1,2,3\n"])


@given(
    files=st.lists(LONG | WIDE | BAD, max_size=4),
    batch_rows=st.integers(1, 5),
    memory_bytes=st.sampled_from([1, 1 << 20]),
    step_bytes=st.sampled_from([1, 1 << 20]),
    restarts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.booleans()), max_size=6),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_is_the_same_on_every_reading_from_anywhere(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[str],
    batch_rows: int,
    memory_bytes: int,
    step_bytes: int,
    restarts: list[tuple[int, int, bool]],
) -> None:
    place = tmp_path_factory.mktemp("log") / "in"
    source = watch(place, input=replace(ALL, batch_rows=batch_rows), memory_bytes=memory_bytes)
    for i, text in enumerate(files):
        put(place / f"{i}.csv", text)
    with mock.patch.object(folders, "_STEP_BYTES", step_bytes):
        # files are read for the first time from wherever a reading stands, with restarts between
        seen = told([])
        offset, watermark_us = 0, None
        for _, steps, again in restarts:
            source = restarted(source) if again else source
            batches = played(source, offset, steps)
            seen |= told(batches, watermark_us)
            offset = batches[-1].stop if batches else offset
            watermark_us = next(
                (b.watermark_us for b in batches[::-1] if b.watermark_us is not None), watermark_us
            )
        full = told(played(restarted(source)))
        assert list(full) == list(range(len(full)))
        assert len(full) >= len(files)
        assert seen == {k: v for k, v in full.items() if k in seen}
        for start, steps, again in restarts:
            if start < len(full):
                source = restarted(source) if again else source
                part = told(played(source, start, steps), full[start][2])
                assert part == {k: v for k, v in full.items() if k in part}
                assert start in part
