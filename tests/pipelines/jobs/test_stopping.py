"""Tests of signals to a stream: the first stops the stream after a snapshot, the second ends it at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.jobs import stopping
from pipelines.jobs.stopping import stop_on_signal
from pipelines.sources.reader import request_stop

TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_sigterm_writes_the_stop_file(tmp_path: Path) -> None:
    with stop_on_signal(tmp_path / ".stop"):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until((tmp_path / ".stop").exists)


def test_a_failed_write_of_the_stop_file_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    write_stop_file = request_stop

    def full_at_first(stop_file: Path) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        write_stop_file(stop_file)

    monkeypatch.setattr(stopping, "request_stop", full_at_first)
    monkeypatch.setattr(stopping, "_RETRY_AFTER_S", 0.01)
    with stop_on_signal(tmp_path / ".stop"):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until((tmp_path / ".stop").exists)
    assert len(calls) == 2


def test_a_second_stop_signal_raises_keyboard_interrupt(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: False)

    with pytest.raises(KeyboardInterrupt), stop_on_signal(tmp_path / ".stop"):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is before
