"""Tests that a paced replay, one with a limited speed, returns each window when the window is due."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.sources.base import Step
from tests.pipelines.sources.logs import NOW_S, Clock, read_log, values, write_file
from tests.pipelines.sources.small_replays import replay_of


def test_a_paced_replay_returns_each_window_when_due(tmp_path: Path) -> None:
    clock = Clock()
    file = write_file(tmp_path / "a.csv", [("a", h + 0.5, h) for h in range(6)])
    source = replay_of(file, speed=1800, windows_per_step=3, clock=clock)
    first = source.step(0)
    assert first is not None
    assert values(first.batches) == [0]
    assert first.batches[0].arrived_s == clock.now_s

    assert source.step(1) == Step((), 1, 2.0)  # at this speed, the next window is due 2 s later
    clock.now_s += 1.5
    assert source.step(1) == Step((), 1, 0.5)

    # After 7 s, three windows are due, and one step returns all three.
    # The arrival time of each window is the time at which the window was due.
    clock.now_s = NOW_S + 7
    caught_up = source.step(1)
    assert caught_up is not None
    assert values(caught_up.batches) == [1, 2, 3]
    assert [batch.arrived_s - NOW_S for batch in caught_up.batches] == [2, 4, 6]
    assert source.step(caught_up.reached) == Step((), 4, 1.0)


def test_a_resumed_replay_ignores_time_between_stop_and_resume(tmp_path: Path) -> None:
    source = replay_of(write_file(tmp_path / "a.csv", [("a", h, h) for h in range(6)]), speed=3600)
    assert values(read_log(source)) == [0]
    later = Clock(NOW_S + 1e6)
    again = replace(source, clock=later)
    # Only one window is due, because a resumed replay counts the time from the first row after the resume.
    assert values(read_log(again, 1)) == [1]
    later.now_s += 2
    assert values(read_log(again, 2)) == [2, 3]


def test_batches_of_an_unpaced_replay_have_no_arrival_time(tmp_path: Path) -> None:
    batches = read_log(replay_of(write_file(tmp_path / "a.csv", [("a", 1, 1)])))
    assert [batch.arrived_s for batch in batches] == [0.0]
