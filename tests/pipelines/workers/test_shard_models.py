"""Tests of the thread that warms up new model versions: it gives way to the threads that forecast."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field

import pytest

from pipelines.workers.shard_models import WarmingTask, WarmingThread

PATIENCE_S = 10.0


@dataclass
class FakeWarming:
    """A fake re-warm that ends with the third call of `step`; each call waits for the event ``may_end``."""

    calls: int = 0
    priorities: list[int] = field(default_factory=list)
    has_begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def step(self) -> bool:
        self.calls += 1
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return self.calls < 3


def test_warming_take_over_waits_only_for_the_current_step() -> None:
    warming = FakeWarming()
    task = WarmingTask(warming, lambda: None)  # type: ignore[arg-type]
    runner, taker = threading.Thread(target=task.run), threading.Thread(target=task.take_over)
    runner.start()
    assert warming.has_begun.wait(PATIENCE_S)
    taker.start()
    taker.join(0.05)
    assert taker.is_alive()
    warming.may_end.set()
    for thread in (taker, runner):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert warming.calls == 1


def test_the_rewarm_thread_waits_while_windows_are_stepped() -> None:
    is_busy = threading.Event()
    is_busy.set()
    warming, thread = FakeWarming(), WarmingThread(is_busy.is_set)
    warming.may_end.set()
    _, result = thread.start(warming)  # type: ignore[arg-type]
    assert not warming.has_begun.wait(0.1)
    is_busy.clear()
    result.result(PATIENCE_S)
    assert warming.calls == 3
    thread.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_the_rewarm_thread_runs_at_a_lower_priority() -> None:
    warming, thread = FakeWarming(), WarmingThread(lambda: False)
    warming.may_end.set()
    thread.start(warming)[1].result(PATIENCE_S)  # type: ignore[arg-type]
    thread.close()
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert min(warming.priorities) > ours  # a larger number is a lower priority
