from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources import replay, runs
from pipelines.sources.base import Step
from pipelines.sources.files import Input
from pipelines.sources.replay import ReplaySource
from pipelines.sources.tables import Columns
from schemas.errors import DataError
from tests.fleets import HOUR
from tests.pipelines.sources.logs import (
    HOUR_US,
    NOW_S,
    START,
    Clock,
    hours,
    played,
    put,
    reasons,
    told,
    values,
)  # fmt: skip

ALL = Input(Columns(), max_future_s=3600)

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


def source(*files: Path, **changes: Any) -> ReplaySource:
    how: dict[str, Any] = {"input": ALL, "freq": HOUR, "clock": Clock()} | changes
    return ReplaySource(tuple(map(str, files)), **how)


def restarted(one: ReplaySource) -> ReplaySource:
    """The source in another process."""
    return replace(one, clock=Clock())


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
    assert batches[0].rejected.drop("reason").rows() == [(str(bad), 0, "", "", 0)]
    assert reasons(batches) == ["line 21 is no JSON object: correct or delete it"]


def test_a_paced_replay_keeps_time_with_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    file = put(tmp_path / "a.csv", [("a", h + 0.5, h) for h in range(6)])
    one = source(file, speed=1800, windows_per_step=3, clock=clock)
    first = one.step(0)
    assert first is not None
    assert values(first.batches) == [0]
    assert first.batches[0].arrived_s == clock.now_s

    assert one.step(1) == Step((), 1, 2.0)  # a window lasts 2 s at this speed
    clock.now_s += 1.5
    assert one.step(1) == Step((), 1, 0.5)

    # Late by three windows: they come at once, each with the moment it was due.
    clock.now_s = NOW_S + 7
    caught_up = one.step(1)
    assert caught_up is not None
    assert values(caught_up.batches) == [1, 2, 3]
    assert [batch.arrived_s - NOW_S for batch in caught_up.batches] == [2, 4, 6]
    assert one.step(caught_up.offset) == Step((), 4, 1.0)


def test_a_replay_that_is_gone_on_with_is_due_at_once(tmp_path: Path) -> None:
    one = source(put(tmp_path / "a.csv", [("a", h, h) for h in range(6)]), speed=3600)
    assert values(played(one)) == [0]
    later = Clock(NOW_S + 1e6)
    again = replace(one, clock=later)
    assert values(played(again, 1)) == [1]  # and not all that were due since then
    later.now_s += 2
    assert values(played(again, 2)) == [2, 3]


def test_an_unpaced_replay_has_nobody_wait(tmp_path: Path) -> None:
    batches = played(source(put(tmp_path / "a.csv", [("a", 1, 1)])))
    assert [batch.arrived_s for batch in batches] == [0.0]


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
