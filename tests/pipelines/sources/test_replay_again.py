"""Tests that a replay is a log: repeated readings find the same rows at each offset."""

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
from pipelines.sources.files.tables import Columns
from pipelines.sources.replay import ReplaySource
from schemas.errors import DataError
from tests.fleets import HOUR
from tests.pipelines.sources.logs import START, Clock, by_offset, read_log, values, write_file
from tests.pipelines.sources.small_replays import INPUT, replay_of, restarted

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


def test_a_replay_resumes_only_with_equal_files_and_settings(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", h, h) for h in range(3)])
    manifest_folder = tmp_path / "out"
    source = replay_of(file, manifest_folder=manifest_folder)
    read_log(source)
    assert values(read_log(restarted(source), 1)) == [1, 2]
    with pytest.raises(DataError, match="data settings differ from those"):
        replace(source, input=replace(INPUT, end_us=0)).step(1)
    write_file(file, [("a", h, -h) for h in range(3)], age_s=30)
    with pytest.raises(DataError, match=r"a\.csv: the files differ from those .* start again") as caught:
        restarted(source).step(1)
    assert "\n" not in str(caught.value)
    for left in manifest_folder.iterdir():
        left.unlink()
    with pytest.raises(DataError, match=r"replay\.json: is missing"):
        restarted(source).step(1)


def test_a_restarted_replay_rejects_the_same_future_rows(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", 0, 1), ("a", 1, 2)])
    early = Clock(START * 3600.0 - 60)
    source = replay_of(
        file, manifest_folder=tmp_path / "out", input=replace(INPUT, max_future_s=60), clock=early
    )
    whole = by_offset(read_log(source))
    assert by_offset(read_log(restarted(source))) == whole
    assert [len(rejected) for _, rejected, _ in whole.values()] == [1, 0]


def test_a_restarted_replay_leaves_no_temporary_files(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.csv", [("a", h % 7, h) for h in range(40)])
    manifest_folder = tmp_path / "out"
    small = replace(INPUT, batch_rows=1)
    source = replay_of(file, input=small, memory_bytes=1, manifest_folder=manifest_folder, windows_per_step=1)
    step = source.step(0)
    assert step is not None
    (left,) = manifest_folder.glob(".runs-*")
    assert len(list(left.iterdir())) > 0
    stray = manifest_folder / ".runs-killed"
    stray.mkdir()
    (stray / "0.arrow").touch()
    again = restarted(source)
    assert len(read_log(again, step.reached)) == 6
    assert [path.name for path in manifest_folder.iterdir()] == ["replay.json"]


def test_a_replay_source_can_be_pickled(tmp_path: Path) -> None:
    source = ReplaySource((str(tmp_path / "a.csv"),), INPUT, HOUR)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - as Beam does, within one process


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
def test_rereading_a_replay_gives_the_same_log(
    folder: Path,
    files: list[list[Any]],
    batch_rows: int,
    block: int,
    windows_per_step: int,
    speed: float,
    restarts: list[tuple[int, int]],
) -> None:
    paths = [write_file(folder / f"{i}.csv", rows) for i, rows in enumerate(files)]
    input_settings = replace(INPUT, batch_rows=batch_rows)
    with mock.patch.object(replay, "_BATCH_ROWS", 5), mock.patch.object(runs, "_FRAME_ROWS", block):
        source = replay_of(*paths, input=input_settings, speed=speed, windows_per_step=windows_per_step)
        full = by_offset(read_without_waiting(source, 0))
        assert list(full) == list(range(len(full)))
        on_disk = replace(source, memory_bytes=1, clock=Clock())
        assert by_offset(read_without_waiting(on_disk, 0)) == full
        for offset, steps in restarts:
            if offset >= len(full):
                continue
            for process in (source, on_disk, restarted(on_disk)):
                part = by_offset(read_without_waiting(process, offset, steps), full[offset][2])
                assert part == {k: v for k, v in full.items() if k in part}
                assert offset in part
    good = [row for rows, _, _ in full.values() for row in rows]
    assert [row[1] for row in good] == sorted(row[1] for row in good)


def read_without_waiting(source: ReplaySource, offset: int, steps: int = 1000) -> list[Any]:
    """Return the batches of a source from ``offset`` on.

    When the source returns no batch because the next one is not due yet, set its clock forward.
    """
    found: list[Any] = []
    for _ in range(steps):
        step = source.step(offset)
        if step is None:
            break
        if step.wait_s:
            assert isinstance(source.clock, Clock)
            source.clock.now_s += step.wait_s
            step = source.step(offset)
            assert step is not None
        found += step.batches
        offset = step.reached
    return found


def test_repr_of_default_columns_is_unchanged_since_0_1_0() -> None:
    # The manifest of a replay stores the repr of its columns, and a replay resumes only if the text is equal.
    # So settings newer than 0.1.0 appear in the repr only if they differ from their defaults.
    assert repr(Columns()) == (
        "Columns(layout='auto', series_id='', timestamp='', value='', event_id='', time_format='auto', "
        "decimal='auto', missing=(), encoding='auto', observed=())"
    )
    later = repr(Columns(time_zone="UTC", null_values=("-",)))
    assert "time_zone='UTC'" in later
    assert "null_values=('-',)" in later
