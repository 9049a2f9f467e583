"""Processes that tests start, with the signals they would have in a terminal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def started(
    command: Sequence[str], ignoring: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[str]:
    """A process of its own session in which SIGINT and SIGTERM do what they do by default, or nothing.

    A process inherits what is ignored where it is started, and in the background of a script that is Ctrl-C.

    Args:
        command: program and arguments.
        ignoring: signals that the process begins with ignored, as a supervisor may have it.
        options: of `subprocess.Popen`.
    """
    with _dispositions(ignoring):
        return subprocess.Popen(command, text=True, start_new_session=True, **options)


@contextmanager
def _dispositions(ignoring: Sequence[signal.Signals]) -> Iterator[None]:
    # In this process, for a moment, and not by preexec_fn, which may hang where other threads run: what a
    # handler catches here is default in a new program, and what is ignored stays ignored.
    usual = ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))
    before = [
        (number, signal.signal(number, signal.SIG_IGN if number in ignoring else handler))
        for number, handler in usual
    ]
    try:
        yield
    finally:
        for number, was in before:
            signal.signal(number, was)
