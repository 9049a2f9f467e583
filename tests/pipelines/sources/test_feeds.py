from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.sources.feeds import Feed, Input, ReplayFeed, Step, WatchFeed
from pipelines.sources.tables import Columns
from schemas import validate
from schemas.errors import DataError
from tests.fleets import HOUR_US, START

MINUTE_US = 60_000_000
ALL = Input(Columns())


@dataclass
class Clock:
    """A clock that stands still until it is told."""

    now_s: float = 1.4e9  # in 2014, after every row

    def __call__(self) -> float:
        return self.now_s

    # A dataclass with an __eq__ has no hash, and a feed is looked up by its fields.
    def __hash__(self) -> int:
        return id(self)


def write(path: Path, rows: Iterable[tuple[Any, ...]]) -> Path:
    """Rows of a series, hours after START, and a value; text stands for itself."""

    def time(at: Any) -> str:
        if isinstance(at, str):
            return at
        return datetime.fromtimestamp((START + at) * 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    lines = [f"{series},{time(at)},{value}" for series, at, value in rows]
    path.write_text("\n".join(["series_id,timestamp,value", *lines]) + "\n")
    os.utime(path, (1.4e9 - 60, 1.4e9 - 60))
    return path


def played(feed: Feed, position: str = "", steps: int = 1000) -> list[Step]:
    """Steps until the feed ends or has to wait, at most ``steps``."""
    found: list[Step] = []
    while len(found) < steps:
        step = feed.step(position)
        if step is None or (not step.batches and step.wait_s):
            break
        found.append(step)
        position = step.position
    return found


def values(steps: Iterable[Step]) -> list[str]:
    return [value for step in steps for batch in step.batches for value in batch.rows["value"]]


def hours(us: Iterable[int]) -> list[float]:
    return [time / HOUR_US - START for time in us]


# --- replay


def test_a_replay_gives_rows_in_the_order_of_their_times_whatever_file_they_are_in(tmp_path: Path) -> None:
    files = (
        write(tmp_path / "b.csv", [("a", 2.5, 3), ("b", 0.5, 1), ("a", 9.5, 5)]),
        write(tmp_path / "a.csv", [("a", 5.5, 4), ("a", 0.75, 2)]),
    )
    feed = ReplayFeed(tuple(map(str, files)), ALL, 3600, windows_per_step=1)
    steps = played(feed)
    assert values(steps) == ["1", "2", "3", "4", "5"]
    # Every window is stepped to its end, those without rows as well.
    assert hours(step.watermark_us for step in steps if step.watermark_us) == list(range(1, 11))
    assert [hours(batch.closes) for step in steps for batch in step.batches] == [[h] for h in range(1, 11)]
    assert feed.step(steps[-1].position) is None


def test_a_replay_releases_so_many_windows_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [("a", h, h) for h in range(10)])
    steps = played(ReplayFeed((str(file),), ALL, 3600, windows_per_step=4))
    assert [len(values([step])) for step in steps] == [4, 4, 2]
    assert hours(step.watermark_us or 0 for step in steps) == [4, 8, 10]


def test_a_replay_s_watermark_stays_behind_by_the_lateness_and_closes_all_at_the_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [("a", h, h) for h in range(4)])
    steps = played(ReplayFeed((str(file),), ALL, 3600, lateness_s=5400, windows_per_step=2))
    assert hours(step.watermark_us or 0 for step in steps) == [0.5, 2.5]
    assert [hours(step.batches[0].closes) for step in steps] == [[0.5], [2.5, 4]]


def test_a_paced_replay_keeps_time_with_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    file = write(tmp_path / "a.csv", [("a", h + 0.5, h) for h in range(6)])
    feed = ReplayFeed((str(file),), ALL, 3600, speed=1800, windows_per_step=3, clock=clock)
    first = feed.step("")
    assert first is not None
    assert values([first]) == ["0"]
    assert first.batches[0].arrived_s == clock.now_s

    waiting = feed.step(first.position)
    assert waiting == Step((), first.position, None, 2.0)  # a window lasts 2 s at this speed
    clock.now_s += 1.5
    assert (feed.step(first.position) or waiting).wait_s == pytest.approx(0.5)

    # Late by three windows: they come at once, and latency counts from when the last of them was due.
    began_s, clock.now_s = clock.now_s - 1.5, clock.now_s + 5.5
    caught_up = feed.step(first.position)
    assert caught_up is not None
    assert values([caught_up]) == ["1", "2", "3"]
    assert caught_up.batches[0].arrived_s == began_s + 6
    assert feed.step(caught_up.position) == Step((), caught_up.position, None, 1.0)


def test_a_replay_that_is_gone_on_with_begins_at_its_position_at_once(tmp_path: Path) -> None:
    clock = Clock()
    file = str(write(tmp_path / "a.csv", [("a", h, h) for h in range(6)]))
    feed = ReplayFeed((file,), ALL, 3600, speed=3600, windows_per_step=1, clock=clock)
    position = played(feed)[0].position
    clock.now_s += 1e6
    again = ReplayFeed((file,), ALL, 3600, speed=3600, windows_per_step=1, clock=clock)
    assert values(played(again, position)) == ["1"]  # and not all that were due since then
    clock.now_s += 2
    assert values(played(again, str(int(position) + 1))) == ["2", "3"]


def test_rows_without_a_time_are_played_once_and_first(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [*(("a", h, h) for h in range(4)), ("a", "never", 9), ("a", "", 8)])
    feed = ReplayFeed((str(file),), ALL, 3600, windows_per_step=2)
    steps = played(feed)
    assert [sorted(values([step])) for step in steps] == [["0", "1", "8", "9"], ["2", "3"]]
    assert values(played(feed, steps[0].position)) == ["2", "3"]


def test_a_replay_of_rows_that_all_have_no_time_ends(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [("a", "never", 9)])
    feed = ReplayFeed((str(file),), ALL, 3600)
    (only,) = played(feed)
    assert values([only]) == ["9"]
    assert only.watermark_us is None
    assert feed.step(only.position) is None


def test_a_replay_counts_what_lies_outside_its_bounds(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [*(("a", h, h) for h in range(10)), ("a", "never", "x")])
    bounds = Input(Columns(), start_us=(START + 3) * HOUR_US, end_us=(START + 6) * HOUR_US)
    steps = played(ReplayFeed((str(file),), bounds, 3600, windows_per_step=2))
    assert sorted(values(steps)) == ["3", "4", "5", "x"]  # a time that cannot be read is for the gate
    assert [step.outside for step in steps] == [7, 0]


def test_two_files_of_different_types_are_played_as_one(tmp_path: Path) -> None:
    text = write(tmp_path / "a.csv", [("a", 1, 1.5)])
    typed = tmp_path / "b.parquet"
    at = datetime.fromtimestamp((START + 2) * 3600, UTC)
    pl.DataFrame({"series_id": ["a"], "timestamp": [at], "value": [2.5]}).write_parquet(typed)
    assert values(played(ReplayFeed((str(text), str(typed)), ALL, 3600))) == ["1.5", "2.5"]


def test_a_bad_file_ends_a_replay_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    good = write(tmp_path / "a.csv", [("a", 1, 1)])
    bad = tmp_path / "b.parquet"
    bad.write_text("no Parquet")
    files = (str(bad), str(good))
    with pytest.raises(DataError, match=r"b\.parquet"):
        ReplayFeed(files, ALL, 3600).step("")
    (step,) = played(ReplayFeed(files, Input(Columns(), skip_bad_files=True), 3600))
    assert values([step]) == ["1"]
    assert step.skipped == 1


def test_a_feed_travels_to_the_worker_that_reads(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [("a", 1, 1)])
    for feed in (ReplayFeed((str(file),), ALL, 3600), WatchFeed(str(tmp_path), ALL, 3600)):
        assert pickle.loads(pickle.dumps(feed)) == feed  # noqa: S301 - Beam's way, within one process


# --- a watched folder


def watch(folder: Path, **changes: Any) -> WatchFeed:
    return WatchFeed(str(folder), ALL, 3600, clock=Clock(), **changes)


def test_each_file_is_read_once_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "2.csv", [("a", 2.5, 2)])
    write(tmp_path / "1.csv", [("a", 1.5, 1)])
    feed = watch(tmp_path)
    steps = played(feed)
    assert values(steps) == ["1", "2"]
    write(tmp_path / "3.csv", [("a", 3.5, 3)])
    write(tmp_path / "0.csv", [("a", 0.5, 0)])
    assert values(played(feed, steps[-1].position)) == ["0", "3"]


def test_a_position_says_which_files_were_read_and_the_watermark(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", [("a", 1.5, 1)])
    (step,) = played(watch(tmp_path, lateness_s=1800))
    assert json.loads(step.position) == {"done": ["1.csv"], "watermark_us": (START + 1) * HOUR_US}
    assert step.watermark_us == (START + 1) * HOUR_US
    assert played(watch(tmp_path), step.position) == []


def test_an_empty_folder_is_looked_at_again_later(tmp_path: Path) -> None:
    assert watch(tmp_path, poll_s=0.25).step("") == Step((), "", None, 0.25)


def test_windows_are_announced_up_to_the_newest_row_less_the_lateness(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", [("a", 4.9, 1), ("a", 2.0, 1)])
    write(tmp_path / "2.csv", [("a", 3.5, 1)])
    write(tmp_path / "3.csv", [("a", 7.0, 1)])
    first, second, third = played(watch(tmp_path, lateness_s=3600))
    assert hours([first.watermark_us or 0]) == [pytest.approx(3.9)]
    assert hours(first.batches[0].closes) == [3]
    assert first.batches[0].late_before is None
    # The second file is older: the watermark stays, and rows of closed windows are late from here on.
    assert second.watermark_us == first.watermark_us
    assert hours([second.batches[0].late_before or 0]) == [3]
    assert hours(third.batches[0].closes) == [6]
    assert hours([third.batches[0].late_before or 0]) == [3]


def test_all_batches_of_a_file_come_before_its_windows_close(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", [("a", h + 0.5, h) for h in range(10)])
    feed = WatchFeed(str(tmp_path), Input(Columns(), batch_rows=4), 3600, clock=Clock())
    (step,) = played(feed)
    assert len(step.batches) > 1
    assert all(not batch.closes for batch in step.batches[:-1])
    assert hours(step.batches[-1].closes) == [9]


def test_hidden_names_and_folders_are_left_alone(tmp_path: Path) -> None:
    for name in (".1.csv", "_1.csv", ".2.parquet.tmp"):
        write(tmp_path / name, [("a", 1, 1)])
    (tmp_path / "folder.csv").mkdir()
    assert played(watch(tmp_path)) == []
    os.rename(tmp_path / "_1.csv", tmp_path / "1.csv")
    assert values(played(watch(tmp_path))) == ["1"]


def test_a_file_that_is_being_written_is_waited_for_with_those_after_it(tmp_path: Path) -> None:
    feed = watch(tmp_path)
    os.utime(write(tmp_path / "1.csv", [("a", 1, 1)]), (1.4e9 - 0.5, 1.4e9 - 0.5))
    write(tmp_path / "2.csv", [("a", 2, 2)])
    assert played(feed) == []
    assert isinstance(feed.clock, Clock)
    feed.clock.now_s += 1
    assert values(played(feed)) == ["1", "2"]


def test_a_bad_file_ends_the_watch_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", [("a", 1.5, 1)])
    (tmp_path / "2.csv").write_text("what,is,this\n1,2,3\n")
    os.utime(tmp_path / "2.csv", (0, 0))
    write(tmp_path / "3.csv", [("a", 3.5, 3)])
    first = played(watch(tmp_path), steps=1)[0]
    with pytest.raises(DataError, match=r"2\.csv"):
        watch(tmp_path).step(first.position)

    steps = played(WatchFeed(str(tmp_path), Input(Columns(), skip_bad_files=True), 3600, clock=Clock()))
    assert values(steps) == ["1", "3"]
    assert [step.skipped for step in steps] == [0, 1, 0]
    assert steps[1].watermark_us == steps[0].watermark_us


def test_a_file_without_rows_or_times_moves_no_watermark(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", [("a", "never", 1)])
    pl.DataFrame(schema={"series_id": pl.String, "timestamp": pl.String, "value": pl.Float64}).write_parquet(
        tmp_path / "2.parquet"
    )
    os.utime(tmp_path / "2.parquet", (0, 0))
    steps = played(watch(tmp_path))
    assert [step.watermark_us for step in steps] == [None, None]
    assert not any(batch.closes for step in steps for batch in step.batches)


def test_rows_from_the_future_are_quarantined_and_move_no_watermark(tmp_path: Path) -> None:
    file = write(tmp_path / "1.csv", [("a", 1.5, 1), ("a", 1.9, 2), ("a", 212 * 8766, 3)])
    (step,) = played(watch(tmp_path))
    assert hours([step.watermark_us or 0]) == [pytest.approx(1.9)]
    good, quarantined = validate(step.batches[0].rows)
    assert good["value"].to_list() == [1.0, 2.0]
    assert quarantined.select("file", "row").rows() == [(str(file), 3)]
    assert "more than a day in the future" in quarantined["reason"][0]
    # A replay knows no future: its clock is the file's.
    write(file, [("a", 1.5, 1)])
    (step, *_) = played(ReplayFeed((str(file),), ALL, 3600, clock=Clock(0.0)))
    assert len(validate(step.batches[0].rows)[0]) == 1


def test_files_of_no_known_kind_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("rows come here")
    write(tmp_path / "1.csv.part", [("a", 1, 1)])
    assert played(watch(tmp_path)) == []


def test_a_position_of_another_kind_of_feed_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "1.csv", [("a", 1.5, 1)])
    (read,) = played(watch(tmp_path))
    with pytest.raises(DataError, match="left by a stream that watched a folder"):
        ReplayFeed((str(file),), ALL, 3600).step(read.position)
    with pytest.raises(DataError, match="left by a replay of files"):
        watch(tmp_path).step("376944")


def test_a_watched_folder_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the watched folder is gone"):
        watch(tmp_path / "nowhere").step("")
