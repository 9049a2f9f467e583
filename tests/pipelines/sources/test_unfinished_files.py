"""Files that somebody is writing, that cannot be read, or that are gone by the time they are."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from pipelines.sources import folder as folders
from schemas.errors import DataError
from tests.pipelines.sources.logs import HOUR_US, START, played, put, reasons, text_of, told, values
from tests.pipelines.sources.watched import ALL, later, parquet, restarted, watch


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
    "no footer": lambda inbox: put(
        inbox / "2.parquet", parquet(inbox.parent / "x").read_bytes()[:-9], age_s=2
    ),
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
