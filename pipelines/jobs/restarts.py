"""Restart a job automatically when its engine dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from pipelines.jobs.run_once import RunResult
from schemas.errors import EngineLost

OnRestart = Callable[[str], None]
"""Called with a line for the user when a job whose engine has died is restarted."""


_RESTARTS_RESET_S = 600.0  # after a run of at least this length, the count of restarts begins again at 0


class RestartWords(NamedTuple):
    """The words that a job adds to its two messages about a dead engine: a restart line and an error.

    Attributes:
        action: the next action of the job, added to the line about a restart.
        advice: a command for the user, added to the error if no restart is left.
    """

    action: str
    advice: str


def run_with_restarts(
    once: Callable[[bool], RunResult], restarts: int, words: RestartWords, on_restart: OnRestart
) -> RunResult:
    """Call ``once`` and return its result; call it again when the engine dies, while a restart is left.

    At most ``restarts`` restarts are made. Their count begins again at 0 when the engine dies in a call that
    has run for at least `_RESTARTS_RESET_S` seconds.

    The argument of ``once`` is False in the first call and True in later calls.

    Raises:
        EngineLost: the engine died, and no restart was left.
    """
    left, is_again = restarts, False
    while True:
        began_s = time.monotonic()
        try:
            return once(is_again)
        except EngineLost as error:
            if time.monotonic() - began_s >= _RESTARTS_RESET_S:
                left = restarts
            if not left:
                raise EngineLost(f"{error}: {words.advice}") from error
            left -= 1
            on_restart(f"{error}: {words.action} (restarts left: {left})")
        is_again = True
