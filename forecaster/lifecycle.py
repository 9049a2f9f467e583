"""When series begin, retire and return in a block of windows: known before anything is stepped.

A series begins at its first value. Silent for more than ``windows.max_gap`` windows it retires, and a later
value is its first one again. Silent for twice as long it is forgotten, so that its slot can be freed.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Bools, Floats, Ints
from forecaster.state import State, live
from forecaster.time.windows import NEVER, latest_rows
from schemas.errors import DataError

_FORGOTTEN = 2  # times ``max_gap``


@dataclass(frozen=True)
class Plan:
    """What happens to each series in a block, which depends on nothing but where the values are.

    Attributes:
        begins: ``[T, S]`` the windows at which a series starts from the initial state.
        live: ``[T, S]`` the windows at whose end it has begun and not retired.
        issued: ``[T, S]`` the same without those that were closed before the block.
        silent: ``[S]`` windows since its last row after the block.
        joins: rows at which series come in that were ahead of the others.
        cold_starts: how many of ``begins`` are returns of series that are not forgotten.
    """

    begins: Bools
    live: Bools
    issued: Bools
    silent: Ints
    joins: Ints
    cold_starts: int

    def part(self, series: slice) -> Plan:
        """The same of some of the series; ``joins`` and ``cold_starts`` stay those of all."""
        begins, alive, issued = (array[:, series] for array in (self.begins, self.live, self.issued))
        return Plan(begins, alive, issued, self.silent[series], self.joins, self.cold_starts)

    def pieces(self, most: int) -> Iterator[tuple[int, int]]:
        """Cuts of at most ``most`` windows, in which nobody begins twice or joins after the first window."""
        first, windows = 0, len(self.begins)
        while first < windows:
            stop = min([first + most, windows, *self.joins[self.joins > first]])
            twice = (self.begins[first:stop].cumsum(axis=0) > 1).any(axis=1)
            if twice.any():
                stop = first + int(twice.argmax())
            yield first, stop
            first = stop


def forgotten_after(max_gap: int) -> int:
    """Windows of silence after which a series is forgotten; should it return, it counts as a new one."""
    return _FORGOTTEN * max_gap


def plan_of(state: State, values: Floats, start: int, max_gap: int) -> Plan:
    """The plan of a block.

    Args:
        state: the fleet before it.
        values: ``[T, S]`` float64 by slot, NaN where missing.
        start: index of the first window.
        max_gap: windows of silence after which a series retires.

    Raises:
        DataError: ``values`` holds values for windows that ``state`` has already closed.
        ValueError: ``start`` leaves out windows of a live series.
    """
    windows, seen = len(values), ~np.isnan(values)
    row = np.arange(windows)[:, None]
    closed = state.clock + 1 - start  # rows of each series that are closed already
    began = live(state)
    if (left_out := began & (closed < 0)).any():
        name = state.series_ids[int(left_out.argmax())]
        raise ValueError(f"windows of {name!r} before {start} are left out")
    ahead = (closed > 0).any()
    if ahead and (again := seen & (row < closed)).any():
        name = state.series_ids[int(again.any(axis=0).argmax())]
        raise DataError(
            f"{int(again.sum())} values belong to windows that are already closed (the first series is "
            f"{name!r}): feed only windows after the state's clock"
        )
    if windows and began.all() and not ahead and state.silent.max(initial=0) + windows <= max_gap:
        # Nobody can begin or retire: the stream's every step.
        ago = np.where(seen.any(axis=0), seen[::-1].argmax(axis=0), state.silent + windows)
        always = np.ones(seen.shape, bool)
        return Plan(~always, always, always, ago, np.empty(0, np.int64), 0)
    last = closed - 1 - state.silent  # row of the last value before the block
    known = began | (state.silent > 0)
    latest = latest_rows(seen, np.where(known, last, NEVER))
    alive = row - latest[1:] <= max_gap
    begins = seen & (row - latest[:-1] > max_gap + 1)
    returns = begins & (row - latest[:-1] <= forgotten_after(max_gap) + 1)
    last = np.where(latest[-1] >= 0, latest[-1], last)
    return Plan(
        begins,
        alive,
        alive & (row >= closed) if ahead else alive,
        np.where(known | (latest[-1] >= 0), np.maximum(windows, closed) - 1 - last, 0),
        np.unique(closed[began & (closed > 0)]),
        int(returns.sum()),
    )
