"""Tests of a watched folder in which files are unfinished, unreadable, changed or deleted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from pipelines.sources import folder as folders
from schemas.errors import DataError
from tests.pipelines.sources.logs import (
    HOUR_US,
    START,
    by_offset,
    csv_text,
    read_log,
    reasons,
    values,
    write_file,
)
from tests.pipelines.sources.watched import INPUT, advance_clock, restarted, watch, write_parquet_file


@pytest.mark.parametrize("age_s", [0.5, -1e6])  # a negative age: a modification time in the future
def test_an_unfinished_text_file_does_not_delay_other_files(inbox: Path, age_s: float) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)], age_s=age_s)
    write_file(inbox / "2.csv", [("a", 2, 2)])
    source = watch(inbox)
    assert values(read_log(source)) == [2]
    advance_clock(source, 1)
    write_file(inbox / "1.csv", [("a", 1, 1), ("a", 1, 2)], age_s=age_s - (1 if age_s > 0 else 0))
    assert read_log(source, 1) == []
    advance_clock(source, 1)
    assert values(read_log(source, 1)) == [1, 2]


def test_new_text_files_without_last_newline_are_not_read(inbox: Path) -> None:
    text = csv_text([("a", 1, 1), ("a", 1.5, 25)])
    write_file(inbox / "1.csv", text[:-2], age_s=0)  # cut off the last two characters, "5" and the newline
    write_file(inbox / "2.csv", [("a", 2, 2)])
    source = watch(inbox)
    advance_clock(source, 5)
    assert values(read_log(source)) == [2]
    write_file(inbox / "1.csv", text, age_s=-6)
    advance_clock(source, 2)
    assert values(read_log(source, 1)) == [1, 25]


def test_text_without_a_last_newline_is_read_after_ten_seconds(inbox: Path) -> None:
    write_file(inbox / "1.csv", csv_text([("a", 1, 1), ("a", 1.5, 25)])[:-1], age_s=9)
    source = watch(inbox)
    assert read_log(source) == []
    advance_clock(source, 1)
    assert values(read_log(source)) == [1, 25]


def test_parquet_files_are_not_read_until_the_footer_exists(inbox: Path) -> None:
    whole = write_parquet_file(inbox / "1.parquet").read_bytes()
    write_file(inbox / "1.parquet", whole[:-9], age_s=0)
    source = watch(inbox)
    assert read_log(source) == []
    write_file(inbox / "1.parquet", whole, age_s=0)
    advance_clock(source, 1)
    assert values(read_log(source)) == [7]


BROKEN: dict[str, Callable[[Path], object]] = {
    "no footer": lambda inbox: write_file(
        inbox / "2.parquet", write_parquet_file(inbox.parent / "x").read_bytes()[:-9], age_s=2
    ),
    "half a gzip file": lambda inbox: write_file(
        inbox / "2.csv.gz",
        gzip.compress(csv_text([("a", h, h) for h in range(900)]).encode())[:-200],
        age_s=2,
    ),
    "half a JSON line": lambda inbox: write_file(
        inbox / "2.jsonl",
        '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' * 9 + '{"ser',
        age_s=0,
    ),
    "unknown columns": lambda inbox: write_file(inbox / "2.csv", "what,is,this\n1,2,3\n", age_s=2),
    "empty file": lambda inbox: write_file(inbox / "2.csv", "", age_s=2),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
def test_an_unreadable_file_is_one_rejected_row(inbox: Path, kind: str, memory_bytes: int) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)])
    BROKEN[kind](inbox)
    write_file(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox, memory_bytes=memory_bytes, input=replace(INPUT, batch_rows=2))
    assert values(read_log(source)) == [1, 3]  # the broken file is new, so it may still grow
    advance_clock(source, 10)
    (batch,) = read_log(source, 2)
    assert (batch.start, batch.stop, len(batch.rows)) == (2, 3, 0)
    (bad,) = batch.rejected.rows(named=True)
    assert bad["file"].startswith(str(inbox / "2."))
    assert (bad["row"], bad["column"], bad["raw"], bad["offset"]) == (0, "", "", 2)
    assert bad["reason"]
    assert str(inbox) not in bad["reason"]
    assert batch.watermark_us == (START + 3) * HOUR_US
    advance_clock(source, 1)
    assert read_log(source, 3) == []
    assert by_offset(read_log(restarted(source), 2), batch.watermark_us) == by_offset(
        [batch], batch.watermark_us
    )


def test_an_unreadable_file_raises_an_error_without_skip_bad_files(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)])
    half = '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n' * 9
    write_file(inbox / "2.jsonl", half + '{"ser')
    write_file(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox, input=replace(INPUT, skip_bad_files=False, batch_rows=2))
    assert values(read_log(source, steps=1)) == [1]
    for process in (source, restarted(source)):  # neither a second step nor a restart skips the file
        for _ in range(2):
            with pytest.raises(DataError, match=r"2\.jsonl: line 10 is not a JSON object"):
                process.step(1)
    write_file(inbox / "2.jsonl", half)
    assert values(read_log(restarted(source), 1)) == [5] * 9 + [3]


def test_a_watched_file_deleted_before_its_reading_is_ignored(inbox: Path) -> None:
    first, second = (write_file(inbox / f"{i}.csv", [("a", i, i)]) for i in (1, 2))
    write_file(inbox / "3.csv", [("a", 3, 3)])
    source = watch(inbox)
    assert values(read_log(source, steps=1)) == [1]
    second.unlink()
    assert values(read_log(source, 1)) == [3]
    first.unlink()
    advance_clock(source, 1)
    assert read_log(source, 2) == []


@pytest.mark.parametrize(
    "change", [lambda p: p.unlink(), lambda p: write_file(p, [("a", 8, 8)] * 9, age_s=5)]
)
def test_a_file_changed_between_runs_gives_a_rejected_row(
    inbox: Path, change: Callable[[Path], object]
) -> None:
    path = write_file(inbox / "1.csv", [("a", i, i) for i in range(6)])
    write_file(inbox / "2.csv", [("a", 7, 7)])
    source = watch(inbox, input=replace(INPUT, batch_rows=2))
    whole = read_log(source)
    change(path)
    again = read_log(restarted(source), 2)
    assert reasons(again)[0] == "was read before, and has since been removed or replaced"
    assert [(batch.start, batch.stop, batch.watermark_us) for batch in again[:2]] == [
        (2, 6, whole[2].watermark_us),
        (6, 7, whole[3].watermark_us),
    ]
    assert values(again)[0] == 7


def test_a_large_file_emptied_between_steps_keeps_its_offsets(inbox: Path) -> None:
    path = write_file(inbox / "1.csv", [("a", i, i) for i in range(6)])
    write_file(inbox / "2.csv", [("a", 7, 7)])
    source = watch(inbox, input=replace(INPUT, batch_rows=2), memory_bytes=1)
    with mock.patch.object(folders, "_STEP_BYTES", 1):
        first = source.step(0)
        assert first is not None
        path.write_text("")
        batches = [*first.batches, *read_log(source, first.reached)]
    assert [(batch.start, batch.stop) for batch in batches][-1] == (6, 7)
    assert values(batches)[-1] == 7
    by_offset(batches)  # `by_offset` asserts that each batch begins where the batch before it ends
