"""Tests that a process is recognised by its start time, also after a correction of the machine's clock."""

from __future__ import annotations

import os

import psutil
import pytest

from forecaster.process_start import is_running, started_s


def test_is_running_does_not_depend_on_the_system_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    started = started_s(os.getpid())
    assert started is not None
    created, booted = psutil.Process().create_time(), psutil.boot_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 3600)
    assert is_running(os.getpid(), started)


def test_is_running_returns_false_for_a_reused_process_id() -> None:
    started = started_s(os.getpid())
    assert started is not None
    assert not is_running(os.getpid(), started - 60)


def test_a_process_id_without_a_process_is_not_running() -> None:
    assert started_s(4194303) is None
    assert not is_running(4194303, 1.0)
