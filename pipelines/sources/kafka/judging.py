"""How the messages of a poll are judged, where that depends on the moment: decided once, then written down.

A row may lie in the future by the earlier of two clocks: that of its message, which producers may set as they
like, and the wall clock as the row was first read. A message whose schema is unknown now may be readable
later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.windows import MICROSECONDS
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decisions import Decisions, Judged, Offsets, Refused
from pipelines.sources.messages.base import MESSAGE, NO_SCHEMA

_LAST_MS = 1 << 52


@dataclass(frozen=True)
class Polls:
    """The messages of a poll, those of all partitions one after the other.

    Attributes:
        names: of the partitions ``[p]``.
        bounds: where the messages of each begin, and their number ``[p + 1]``.
        offsets: of the messages ``[n]``.
        came_us: the times of the messages ``[n]``; far ahead where they have none.
    """

    names: Sequence[str]
    bounds: NDArray[np.int64]
    offsets: Offsets
    came_us: NDArray[np.int64]

    @staticmethod
    def of(polled: Mapping[str, Polled]) -> Polls:
        """The messages of partitions, by the names of these."""
        counts = [len(one.offsets) for one in polled.values()]
        came_ms = np.array([ms for one in polled.values() for ms in one.came_ms], np.int64)
        came_ms = np.where(came_ms <= 0, _LAST_MS, np.minimum(came_ms, _LAST_MS))  # brokers write -1 for none
        return Polls(
            [*polled],
            np.cumsum([0, *counts], dtype=np.int64),
            np.array([at for one in polled.values() for at in one.offsets], np.int64),
            came_ms * 1000,
        )

    def partitions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of the partition of each message at ``places [m]``."""
        return np.searchsorted(self.bounds, places, side="right") - 1

    def each(self) -> list[tuple[str, slice]]:
        """Every partition with the places of its messages, those without any left out."""
        pairs = zip(self.names, self.bounds[:-1], self.bounds[1:], strict=True)
        return [(name, slice(int(low), int(high))) for name, low, high in pairs if high > low]


class Judge:
    """The clocks by which the rows of a poll are judged.

    A row is in the future if it is later than both its message's time and the clock of its offset allow. That
    clock is the wall clock of an earlier poll, which is written down. Where it is too old to tell, the
    partition gets a newer one, of now, before anybody acts on the row; so a re-read judges alike.

    Args:
        polls: the messages.
        decisions: where clocks are written down.
        wall: seconds since 1970.
        max_future_s: how far a row may lie ahead.
    """

    def __init__(
        self, polls: Polls, decisions: Decisions, wall: Callable[[], float], max_future_s: int
    ) -> None:
        self.polls, self.decisions, self.wall = polls, decisions, wall
        self._future_us = max_future_s * MICROSECONDS
        self._clock_us = np.zeros(len(polls.offsets), np.int64)
        self._is_open = np.zeros(len(polls.offsets), bool)
        for name, at in polls.each():
            self._clock_us[at] = decisions.clock_us(name, polls.offsets[at])
            self._is_open[at] = polls.offsets[at] >= decisions.settled(name)

    def clock_us(self, times_us: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The earlier clock of each row, in microseconds since 1970.

        Args:
            times_us: times of the rows ``[r]``.
            places: of the messages that they were in ``[r]``.

        Raises:
            OutputError: a new clock cannot be written down.
        """
        came_us = self.polls.came_us[places]
        is_ahead = times_us > self._clock_us[places] + self._future_us
        is_unsure = is_ahead & (times_us <= came_us + self._future_us) & self._is_open[places]
        if is_unsure.any():
            self._settle({*self.polls.partitions(places[is_unsure]).tolist()})
        return np.minimum(came_us, self._clock_us[places])

    def _settle(self, partitions: set[int]) -> None:
        now_us = round(self.wall() * MICROSECONDS)
        judged = {}
        for partition in partitions:
            name, low, high = self.polls.names[partition], *self.polls.bounds[partition : partition + 2]
            start = max(int(self.polls.offsets[low]), self.decisions.settled(name))
            # a clock that was set back judges no row anew
            clock_us = max(now_us, int(self._clock_us[high - 1]))
            judged[name] = Judged(start, int(self.polls.offsets[high - 1]) + 1, clock_us)
            here = slice(low, high)
            self._clock_us[here] = np.where(self._is_open[here], clock_us, self._clock_us[here])
            self._is_open[here] = False
        self.decisions.judge(judged)


def refused(polls: Polls, decisions: Decisions) -> dict[int, str]:
    """The messages whose schema was unknown when they were first read: the reason by the place of each."""
    found: dict[int, str] = {}
    for name, at in polls.each():
        for start, stop, reason in decisions.refused(name):
            low, high = at.start + np.searchsorted(polls.offsets[at], (start, stop))
            found |= dict.fromkeys(range(int(low), int(high)), reason)
    return found


def refuse(polls: Polls, frame: pl.DataFrame, known: Mapping[int, str], decisions: Decisions) -> None:
    """Write down the messages of a raw frame whose schema is unknown.

    Raises:
        OutputError: they cannot be written down.
    """
    if "problem_kind" not in frame.columns:
        return
    rows = frame.filter(pl.col("problem_kind") == NO_SCHEMA).select(MESSAGE, "problem").rows()
    made: dict[str, list[Refused]] = {}
    for place, reason in rows:
        if place in known:
            continue
        offset = int(polls.offsets[place])
        found = made.setdefault(polls.names[int(polls.partitions(np.array([place]))[0])], [])
        if found and (found[-1].stop, found[-1].reason) == (offset, reason):
            found[-1] = found[-1]._replace(stop=offset + 1)
        else:
            found.append(Refused(offset, offset + 1, reason))
    decisions.refuse(made)
