"""Compute when series begin, retire and return in a block of windows, before the block is stepped.

A series begins at its first value. When it has been silent for more than ``windows.max_gap`` windows it
retires, and a later value is a first one again. After twice as long it is forgotten, so that its slot can be
freed.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from forecaster.arrays import Bools, Floats, Ints
from forecaster.state import State, live
from forecaster.time.windows import NEVER, latest_rows
from schemas.errors import DataError

_FORGOTTEN = 2  # a series is forgotten after a gap of more than `_FORGOTTEN` times ``max_gap`` windows


@dataclass(frozen=True)
class Plan:
    """When each series begins, retires and returns in a block.

    The plan follows from the missing values of the block, the state before the block, and ``max_gap``.

    Attributes:
        begins: ``[T, S]`` bool, the windows at which a series starts from the initial state.
        live: ``[T, S]`` bool, the windows at whose end the series has begun and has not retired.
        issued: ``[T, S]`` bool, ``live`` without the windows that were closed before the block.
        silent: ``[S]`` int64, windows since its last row, after the block.
        joins: int64, the rows at which more series are stepped: these series had closed the earlier rows
            before the block.
        cold_starts: how many of ``begins`` are returns of series that were not forgotten.
    """

    begins: Bools
    live: Bools
    issued: Bools
    silent: Ints
    joins: Ints
    cold_starts: int

    def part(self, series: slice) -> Plan:
        """Return this plan with only the series in a slice.

        ``joins`` and ``cold_starts`` still cover all series.
        """
        begins, alive, issued = (array[:, series] for array in (self.begins, self.live, self.issued))
        return Plan(begins, alive, issued, self.silent[series], self.joins, self.cold_starts)

    def windows(self, part: slice) -> Plan:
        """Return this plan with only the windows in a slice.

        Fields without a window axis are not changed.
        """
        return replace(self, begins=self.begins[part], live=self.live[part], issued=self.issued[part])

    def pieces(self, most: int) -> Iterator[tuple[int, int]]:
        """Cut the block into pieces of at most ``most`` windows, and yield them as ``(first, stop)``.

        In a piece no series begins twice, and no row after the first is one of ``joins``.
        """
        first, windows = 0, len(self.begins)
        while first < windows:
            stop = min([first + most, windows, *self.joins[self.joins > first]])
            twice = (self.begins[first:stop].cumsum(axis=0) > 1).any(axis=1)
            if twice.any():
                stop = first + int(twice.argmax())
            yield first, stop
            first = stop


def forgotten_after(max_gap: int) -> int:
    """Return the longest gap that a series can have without being forgotten, in windows without a value.

    A forgotten series counts as new if it returns.
    """
    return _FORGOTTEN * max_gap


def plan_block(state: State, values: Floats, start: int, max_gap: int) -> Plan:
    """Compute when each series begins, retires and returns in a block.

    Args:
        state: the fleet before the block.
        values: ``[T, S]`` float64 by slot, NaN if missing.
        start: index of the first window.
        max_gap: number of windows without a value after which a series retires.

    Raises:
        DataError: ``values`` holds values for windows that ``state`` has already closed.
        ValueError: the block starts later than the first window that a live series was not stepped through.
    """
    seen = ~np.isnan(values)
    # For each series, the number of windows from ``start`` on that it was already stepped through.
    # The number is below 0 if the series was not stepped through the last window before the block.
    closed = state.clock + 1 - start
    began = live(state)
    _check_gaps(state, start, began & (closed < 0))
    some_closed = (closed > 0).any()
    if some_closed:
        _check_closed(state, seen & (np.arange(len(values))[:, None] < closed))
    elif len(values) and began.all() and state.silent.max(initial=0) + len(values) <= max_gap:
        return _plan_without_changes(state, seen)
    return _plan_with_changes(state, seen, closed, max_gap)


def _check_gaps(state: State, start: int, is_behind: Bools) -> None:
    """Raise ValueError if a live series was not stepped through the window before ``start``.

    ``is_behind`` is True for such series.
    """
    if is_behind.any():
        slot = min(np.flatnonzero(is_behind), key=lambda slot: state.clock[slot])
        raise ValueError(
            f"the block starts at window {start}, but the live series {state.series_ids[slot]!r} has not "
            f"been stepped through the windows before it: start the block at window {state.clock[slot] + 1}"
        )


def _check_closed(state: State, reopened: Bools) -> None:
    """Raise DataError if any value belongs to a closed window; ``reopened`` marks these values."""
    if reopened.any():
        name = state.series_ids[int(reopened.any(axis=0).argmax())]
        raise DataError(
            f"{int(reopened.sum())} values belong to windows that are already closed (the first series is "
            f"{name!r}): feed only windows after the last one that the series was stepped through"
        )


def _plan_without_changes(state: State, seen: Bools) -> Plan:
    """Return the plan of a block in which every series is live, from before the first window to the last.

    No series may have closed any of the block's windows. This is the usual step of a stream, and costs less
    than `_plan_with_changes`.
    """
    silent = np.where(seen.any(axis=0), seen[::-1].argmax(axis=0), state.silent + len(seen))
    always = np.ones(seen.shape, bool)
    return Plan(~always, always, always, silent, np.empty(0, np.int64), 0)


def _plan_with_changes(state: State, seen: Bools, closed: Ints, max_gap: int) -> Plan:
    """Return the plan of a block in which series may begin, retire and return.

    Args:
        state: the fleet before the block.
        seen: ``[T, S]``, whether there is a value.
        closed: ``[S]``, the number of the block's rows that each series has closed already; negative if
            windows are missing between the clock of a series that is not live and the block.
        max_gap: see `plan_block`.
    """
    windows, row = len(seen), np.arange(len(seen))[:, None]
    began = live(state)
    has_past = began | (state.silent > 0)
    # For each series, the block's row of the last value that the series was already stepped through:
    # negative if this value lies before the block.
    # A series without a past has no such row: `NEVER` takes its place in the call of `latest_rows`.
    last_before = closed - 1 - state.silent
    latest = latest_rows(seen, np.where(has_past, last_before, NEVER))
    silence = row - latest[:-1] - 1  # the number of windows without a value directly before each window
    begins = seen & (silence > max_gap)
    returns = begins & (silence <= forgotten_after(max_gap))
    alive = row - latest[1:] <= max_gap
    has_value = has_past | (latest[-1] >= 0)
    last = np.where(latest[-1] >= 0, latest[-1], last_before)
    return Plan(
        begins,
        alive,
        alive & (row >= closed),
        np.where(has_value, np.maximum(windows, closed) - 1 - last, 0),
        np.unique(closed[began & (closed > 0)]),
        int(returns.sum()),
    )
