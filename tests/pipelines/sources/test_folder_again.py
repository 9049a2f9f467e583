"""A watched folder read again, from anywhere in its log, says what it said."""

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
from tests.pipelines.sources.logs import NOW_S, START, played, put, text_of, told, values
from tests.pipelines.sources.watched import ALL, later, restarted, watch


def test_what_was_the_future_when_a_file_came_stays_it(inbox: Path) -> None:
    now = (NOW_S / 3600) - START
    put(inbox / "1.csv", [("a", now + 1.5, 1)])
    source = watch(inbox)
    first = told(played(source))
    later(source, 1e6)
    assert told(played(restarted(source))) == first
    assert len(first[0][1]) == 1


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
