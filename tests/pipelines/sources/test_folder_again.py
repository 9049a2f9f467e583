"""Tests that a watched folder is a log: repeated readings find the same rows at each offset."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources import folder as folders
from pipelines.sources.folder import FolderSource
from schemas.errors import DataError
from tests.pipelines.sources.logs import NOW_S, START, by_offset, csv_text, read_log, values, write_file
from tests.pipelines.sources.watched import INPUT, advance_clock, restarted, watch


def test_restart_after_clock_advance_rejects_the_same_future_rows(inbox: Path) -> None:
    now = (NOW_S / 3600) - START
    write_file(inbox / "1.csv", [("a", now + 1.5, 1)])
    source = watch(inbox)
    first = by_offset(read_log(source))
    advance_clock(source, 1e6)
    assert by_offset(read_log(restarted(source))) == first
    assert len(first[0][1]) == 1


def test_a_torn_last_line_of_the_manifest_is_ignored(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    read_log(source)
    manifest = inbox.parent / "out" / "folder.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + whole[:30])
    write_file(inbox / "2.csv", [("a", 2, 2)])
    assert values(read_log(restarted(source), 1)) == [2]
    assert len(manifest.read_bytes().splitlines()) == 2


def test_a_folder_manifest_with_lost_or_invalid_lines_is_refused(inbox: Path) -> None:
    write_file(inbox / "1.csv", [("a", 1, 1)])
    source = watch(inbox)
    read_log(source)
    with pytest.raises(DataError, match=r"folder\.jsonl: ends at row 1, but rows up to 5 were read"):
        restarted(source).step(5)
    (inbox.parent / "out" / "folder.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(DataError, match=r"folder\.jsonl: line 1 is not an entry of a manifest"):
        restarted(source).step(0)


def test_a_folder_source_can_be_pickled(inbox: Path) -> None:
    source = FolderSource(inbox, INPUT, inbox)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - as Beam does, within one process


LONG_FILES = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.one_of(st.integers(0, 9), st.just("never")), st.sampled_from([1, "x"])
    ),
    max_size=9,
).map(csv_text)

WIDE_FILES = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from(["1,2", "3,", ",", "4,x"])), max_size=6
).map(lambda rows: "time,a,b\n" + "".join(f"2013-01-0{day},{cells}\n" for day, cells in rows))
BAD_FILES = st.sampled_from(["", "what,is,this\n1,2,3\n"])


@given(
    files=st.lists(LONG_FILES | WIDE_FILES | BAD_FILES, max_size=4),
    batch_rows=st.integers(1, 5),
    memory_bytes=st.sampled_from([1, 1 << 20]),
    step_bytes=st.sampled_from([1, 1 << 20]),
    restarts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.booleans()), max_size=6),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rereading_a_folder_gives_the_same_log(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[str],
    batch_rows: int,
    memory_bytes: int,
    step_bytes: int,
    restarts: list[tuple[int, int, bool]],
) -> None:
    inbox = tmp_path_factory.mktemp("log") / "in"
    source = watch(inbox, input=replace(INPUT, batch_rows=batch_rows), memory_bytes=memory_bytes)
    for i, text in enumerate(files):
        write_file(inbox / f"{i}.csv", text)
    with mock.patch.object(folders, "_STEP_BYTES", step_bytes):
        # Read the log in parts; the source may be restarted before each part. At each offset, a part must
        # have the same row and watermark as the whole log has if it is read at once.
        seen = by_offset([])
        offset, watermark_us = 0, None
        for _, steps, again in restarts:
            source = restarted(source) if again else source
            batches = read_log(source, offset, steps)
            seen |= by_offset(batches, watermark_us)
            offset = batches[-1].stop if batches else offset
            watermark_us = next(
                (b.watermark_us for b in batches[::-1] if b.watermark_us is not None), watermark_us
            )
        full = by_offset(read_log(restarted(source)))
        assert list(full) == list(range(len(full)))
        assert len(full) >= len(files)
        assert seen == {k: v for k, v in full.items() if k in seen}
        for start, steps, again in restarts:
            if start < len(full):
                source = restarted(source) if again else source
                part = by_offset(read_log(source, start, steps), full[start][2])
                assert part == {k: v for k, v in full.items() if k in part}
                assert start in part
