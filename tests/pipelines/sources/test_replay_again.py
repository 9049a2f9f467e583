"""A replay read again, from anywhere in its log, says what it said."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources import replay
from pipelines.sources.files import sorted_runs as runs
from pipelines.sources.replay import ReplaySource
from schemas.errors import DataError
from tests.fleets import HOUR
from tests.pipelines.sources.logs import START, Clock, played, put, told, values
from tests.pipelines.sources.small_replays import ALL, restarted, source

ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.one_of(
            st.integers(0, 20).map(lambda halves: halves / 2),
            st.sampled_from(["never", "9999-01-01", "0001-01-01", "2225-01-01", "1900-01-01"]),
        ),
        st.one_of(st.integers(0, 99), st.just("x")),
    ),
    max_size=12,
)


def test_a_replay_is_gone_on_with_over_the_same_files_alone(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", h, h) for h in range(3)])
    keep = tmp_path / "out"
    one = source(file, manifest_folder=keep)
    played(one)
    assert values(played(restarted(one), 1)) == [1, 2]
    with pytest.raises(DataError, match="data settings are not those"):
        replace(one, input=replace(ALL, end_us=0)).step(1)
    put(file, [("a", h, -h) for h in range(3)], age_s=30)
    with pytest.raises(DataError, match=r"a\.csv: the files are not those .* begin anew") as caught:
        restarted(one).step(1)
    assert "\n" not in str(caught.value)
    for left in keep.iterdir():
        left.unlink()
    with pytest.raises(DataError, match=r"replay\.json: is gone"):
        restarted(one).step(1)


def test_the_future_stays_what_it_was_when_the_replay_began(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", 0, 1), ("a", 1, 2)])
    early = Clock(START * 3600.0 - 60)
    one = source(file, manifest_folder=tmp_path / "out", input=replace(ALL, max_future_s=60), clock=early)
    whole = told(played(one))
    assert told(played(restarted(one))) == whole
    assert [len(rejected) for _, rejected, _ in whole.values()] == [1, 0]


def test_runs_on_disk_go_at_the_end_and_at_the_next_start(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", [("a", h % 7, h) for h in range(40)])
    keep = tmp_path / "out"
    small = replace(ALL, batch_rows=1)
    one = source(file, input=small, memory_bytes=1, manifest_folder=keep, windows_per_step=1)
    step = one.step(0)
    assert step is not None
    (left,) = keep.glob(".runs-*")
    assert len(list(left.iterdir())) > 0
    stray = keep / ".runs-killed"
    stray.mkdir()
    (stray / "0.arrow").touch()
    again = restarted(one)
    assert len(played(again, step.offset)) == 6
    assert [path.name for path in keep.iterdir()] == ["replay.json"]


def test_a_source_travels_to_the_worker_that_reads(tmp_path: Path) -> None:
    one = ReplaySource((str(tmp_path / "a.csv"),), ALL, HOUR)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - Beam's way, within one process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replays")


@given(
    files=st.lists(ROWS, min_size=1, max_size=3),
    batch_rows=st.integers(1, 5),
    block=st.integers(1, 4),
    windows_per_step=st.sampled_from([1, 3, 64]),
    speed=st.sampled_from([0.0, 3600.0]),
    restarts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=6),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_is_the_same_on_every_reading_from_anywhere_in_memory_or_on_disk(
    folder: Path,
    files: list[list[Any]],
    batch_rows: int,
    block: int,
    windows_per_step: int,
    speed: float,
    restarts: list[tuple[int, int]],
) -> None:
    paths = [put(folder / f"{i}.csv", rows) for i, rows in enumerate(files)]
    how = replace(ALL, batch_rows=batch_rows)
    with mock.patch.object(replay, "_BATCH_ROWS", 5), mock.patch.object(runs, "_FRAME_ROWS", block):
        one = source(*paths, input=how, speed=speed, windows_per_step=windows_per_step)
        full = told(to_the_end(one, 0))
        assert list(full) == list(range(len(full)))
        on_disk = replace(one, memory_bytes=1, clock=Clock())
        assert told(to_the_end(on_disk, 0)) == full
        for offset, steps in restarts:
            if offset >= len(full):
                continue
            for process in (one, on_disk, restarted(on_disk)):
                part = told(to_the_end(process, offset, steps), full[offset][2])
                assert part == {k: v for k, v in full.items() if k in part}
                assert offset in part
    good = [row for rows, _, _ in full.values() for row in rows]
    assert [row[1] for row in good] == sorted(row[1] for row in good)


def to_the_end(one: ReplaySource, offset: int, steps: int = 1000) -> list[Any]:
    """Batches, the clock moving on where the source waits."""
    found: list[Any] = []
    for _ in range(steps):
        step = one.step(offset)
        if step is None:
            break
        if step.wait_s:
            assert isinstance(one.clock, Clock)
            one.clock.now_s += step.wait_s
            step = one.step(offset)
            assert step is not None
        found += step.batches
        offset = step.offset
    return found
