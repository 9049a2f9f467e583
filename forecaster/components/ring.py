"""The last values of each series: what lags look back to, and what a new model is warmed up on.

Letters: T windows, S series, R ring, M longest lag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Block, Field, series_first, series_last


@dataclass(frozen=True)
class Ring:
    """``values`` ``[S, R]`` float64: window ``w`` lies in slot ``w % R`` until window ``w + R`` takes it.

    Attributes:
        windows: R.
        longest_lag: M, windows before the block that its inputs look back to; at most R.
    """

    windows: int
    longest_lag: int
    name: str = "ring"
    format_version: int = 1

    def spec(self) -> Mapping[str, Field]:
        """One field; none where it keeps nothing."""
        if not self.windows:
            return {}
        return {"values": Field("float64", (self.windows,))}

    def init(self, series: int) -> Arrays:
        """Nothing but missing windows."""
        if not self.windows:
            return {}
        return {"values": series_first(np.full((self.windows, series), np.nan))}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``history``, and writes the block's values in place."""
        if not self.windows:
            return own, replace(block, history=block.values)
        ring, windows = series_last(own["values"]), len(block.values)
        after = {"values": series_first(ring)}
        history = np.empty((self.longest_lag + windows, block.values.shape[1]))
        history[self.longest_lag :] = block.values
        kept = min(windows, self.windows)  # of a block longer than the ring, the end
        if len(block.start) == 1:
            start = int(block.start[0])
            done = 0
            for slots in _slots(start - self.longest_lag, self.longest_lag, self.windows):
                stop = done + slots.stop - slots.start
                history[done:stop] = ring[slots]
                done = stop
            done = windows - kept
            for slots in _slots(start + done, kept, self.windows):
                stop = done + slots.stop - slots.start
                ring[slots] = block.values[done:stop]
                done = stop
            return after, replace(block, history=history)
        series = ring.shape[1]
        ago = np.arange(-self.longest_lag, 0)[:, None]
        history[: self.longest_lag] = ring[(block.start + ago) % self.windows, np.arange(series)]
        lengths = np.full(series, windows) if block.lengths is None else block.lengths
        row = np.arange(windows)[:, None]
        at, which = np.nonzero((row < lengths) & (row >= lengths - self.windows))
        ring[(block.start[which] + at) % self.windows, which] = block.values[at, which]
        return after, replace(block, history=history)


def in_order(ring: Floats, clock: Ints) -> Floats:
    """``[S, R]`` the last ``R`` windows, oldest first, of series whose last window is ``clock`` ``[S]``."""
    windows = ring.shape[1]
    slots = (clock[:, None] + 1 + np.arange(windows)) % windows
    return np.take_along_axis(ring, slots, axis=1)


def _slots(start: int, windows: int, ring: int) -> list[slice]:
    """Where ``windows`` windows from ``start`` on lie, at most once round."""
    first = start % ring
    stop = min(first + windows, ring)
    rest = windows - (stop - first)
    return [slice(first, stop), slice(0, rest)] if rest else [slice(first, stop)]
