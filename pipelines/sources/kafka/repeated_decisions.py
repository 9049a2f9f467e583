"""Store the decisions that depend on when a message was read, so that a second reading repeats them.

Two decisions depend on the time. The first is whether a row is in the future. Its time is compared with the
earlier of two clocks: the timestamp of its message, which producers may set to any time, and the wall clock
when the row was first read. The second is whether a message has an unknown schema, because the registry may
get the schema later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.time.windows import MICROSECONDS
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decision_journal import ClockDecision, Decisions, Offsets, Refused
from pipelines.sources.messages.base import MESSAGE, NO_SCHEMA

_LAST_MS = 1 << 52


@dataclass(frozen=True)
class PolledMessages:
    """The offsets and timestamps of the messages of a poll, partition by partition.

    Attributes:
        names: ``[p]`` names of the partitions.
        bounds: ``[p + 1]`` index of the first message of each partition; at the end the number of messages.
        offsets: ``[n]`` offsets of the messages.
        arrived_us: ``[n]`` timestamps of the messages; far in the future if a message has none.
    """

    names: Sequence[str]
    bounds: NDArray[np.int64]
    offsets: Offsets
    arrived_us: NDArray[np.int64]

    @staticmethod
    def of(polled: Mapping[str, Polled]) -> PolledMessages:
        """Return the offsets and timestamps of the messages in ``polled``, by partition name."""
        counts = [len(one.offsets) for one in polled.values()]
        came_ms = np.array([ms for one in polled.values() for ms in one.came_ms], np.int64)
        # A message without a timestamp has -1 here. Replace it by the largest time, so that only the
        # stored clock decides whether a row of the message is in the future.
        came_ms = np.where(came_ms <= 0, _LAST_MS, np.minimum(came_ms, _LAST_MS))
        return PolledMessages(
            [*polled],
            np.cumsum([0, *counts], dtype=np.int64),
            np.array([at for one in polled.values() for at in one.offsets], np.int64),
            came_ms * 1000,
        )

    def partitions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for each message index in ``places``, the index in ``names`` of the message's partition."""
        return np.searchsorted(self.bounds, places, side="right") - 1

    def each(self) -> list[tuple[str, slice]]:
        """Return the name of each partition with messages, and the slice of these messages in the poll."""
        pairs = zip(self.names, self.bounds[:-1], self.bounds[1:], strict=True)
        return [(name, slice(int(low), int(high))) for name, low, high in pairs if high > low]


class Judge:
    """Finds, for each row, the clock that decides whether the time of the row is in the future.

    A row is in the future if it is more than ``max_future_s`` later than the earlier of two clocks: the
    timestamp of its message, and the stored clock of its offset, which is the wall clock of an earlier poll.
    If only the stored clock rejects a row, and this clock is not final for the row's offset, the current time
    replaces the stored clock. The new clock is stored before the row is used, so a re-read makes the same
    decision.

    Args:
        polls: the messages.
        decisions: the journal in which clocks are stored.
        wall: returns the wall clock, in seconds since 1970.
        max_future_s: how many seconds after the clock a row may be.
    """

    def __init__(
        self, polls: PolledMessages, decisions: Decisions, wall: Callable[[], float], max_future_s: int
    ) -> None:
        self.polls, self.decisions, self.wall = polls, decisions, wall
        self._future_us = max_future_s * MICROSECONDS
        self._clock_us = np.zeros(len(polls.offsets), np.int64)
        self._is_open = np.zeros(len(polls.offsets), bool)
        for name, at in polls.each():
            self._clock_us[at] = decisions.clock_us(name, polls.offsets[at])
            self._is_open[at] = polls.offsets[at] >= decisions.settled(name)

    def clock_us(self, times_us: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each row the clock with which its time is compared; store a new clock if one is needed.

        Args:
            times_us: ``[r]`` times of the rows.
            places: ``[r]`` for each row, the index of its message in the poll.

        Raises:
            OutputError: a new clock cannot be written.
        """
        arrived_us = self.polls.arrived_us[places]
        is_ahead = times_us > self._clock_us[places] + self._future_us
        is_unsure = is_ahead & (times_us <= arrived_us + self._future_us) & self._is_open[places]
        if is_unsure.any():
            self._store_clock({*self.polls.partitions(places[is_unsure]).tolist()})
        return np.minimum(arrived_us, self._clock_us[places])

    def _store_clock(self, partitions: set[int]) -> None:
        now_us = round(self.wall() * MICROSECONDS)
        clocks = {}
        for partition in partitions:
            name, low, high = self.polls.names[partition], *self.polls.bounds[partition : partition + 2]
            start = max(int(self.polls.offsets[low]), self.decisions.settled(name))
            # Store no clock before the last one: past decisions must stay valid if the wall clock goes back.
            clock_us = max(now_us, int(self._clock_us[high - 1]))
            clocks[name] = ClockDecision(start, int(self.polls.offsets[high - 1]) + 1, clock_us)
            span = slice(low, high)
            self._clock_us[span] = np.where(self._is_open[span], clock_us, self._clock_us[span])
            self._is_open[span] = False
        self.decisions.keep_clocks(clocks)


def refused(polls: PolledMessages, decisions: Decisions) -> dict[int, str]:
    """Return the reasons for which an earlier read refused messages of a poll, by their index in the poll.

    The earlier read refused a message because its schema was unknown.
    """
    found: dict[int, str] = {}
    for name, at in polls.each():
        for start, stop, reason in decisions.refused(name):
            low, high = at.start + np.searchsorted(polls.offsets[at], (start, stop))
            found |= dict.fromkeys(range(int(low), int(high)), reason)
    return found


def refuse(
    polls: PolledMessages, frame: pl.DataFrame, known: Mapping[int, str], decisions: Decisions
) -> None:
    """Store in the journal which messages of a raw frame are refused because of an unknown schema.

    Raises:
        OutputError: the decisions cannot be written.
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
