"""Processes that tests start, with the signal handlers of a process in a terminal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def started(
    command: Sequence[str], ignoring: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start a process in a new session, with default handlers of SIGINT and SIGTERM or with ignored signals.

    A process otherwise inherits ignored signals, for example Ctrl-C from a script that runs in the
    background.

    Args:
        command: program and arguments.
        ignoring: signals that are ignored when the process begins, as under some supervisors.
        options: further arguments of `subprocess.Popen`.
    """
    with _dispositions(ignoring):
        return subprocess.Popen(command, text=True, start_new_session=True, **options)


@contextmanager
def _dispositions(ignoring: Sequence[signal.Signals]) -> Iterator[None]:
    # Set the handlers of this process for a moment, because a new process inherits them.
    # The alternative, ``preexec_fn`` of `subprocess.Popen`, may block if other threads run.
    # A new program keeps ignored signals ignored, and gets the default handlers for all other signals.
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
