"""The ring: the last values of each series, for lags and for re-warming a new model.

Letters: T windows, S series, R ring, M longest lag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.delay_line import slices_of_windows


@dataclass(frozen=True)
class Ring:
    """Keeps the values of the last windows of each series, NaN if missing.

    The value of window ``w`` is in place ``w % R`` of the field ``values`` ``[S, R]``.

    Attributes:
        windows: R.
        longest_lag: M, how many windows before the block ``history`` begins; at most R.
    """

    windows: int
    longest_lag: int
    name: str = "ring"
    format_version: int = 1
    reads = frozenset[str]()
    writes = frozenset({"history"})

    def spec(self) -> Mapping[str, Field]:
        """Return the field ``values``; return no field if the ring holds no windows."""
        if not self.windows:
            return {}
        return {"values": Field("float64", (self.windows,))}

    def init(self, series: int) -> Arrays:
        """Return a ring filled with NaN; return no array if the ring holds no windows."""
        if not self.windows:
            return {}
        return {"values": series_first(np.full((self.windows, series), np.nan))}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Add ``history`` to the block (see `Block`), and write the block's values into the ring in place."""
        if not self.windows:
            return own, block.with_fields(history=block.values)
        ring, windows = series_last(own["values"]), len(block.values)
        after = {"values": series_first(ring)}
        history = np.empty((self.longest_lag + windows, block.values.shape[1]))
        history[self.longest_lag :] = block.values
        kept = min(windows, self.windows)  # if the block is longer than the ring, store only its last windows
        if len(block.start) == 1:
            start = int(block.start[0])
            filled = 0
            for places in slices_of_windows(start - self.longest_lag, self.longest_lag, self.windows):
                stop = filled + places.stop - places.start
                history[filled:stop] = ring[places]
                filled = stop
            first = windows - kept
            for places in slices_of_windows(start + first, kept, self.windows):
                stop = first + places.stop - places.start
                ring[places] = block.values[first:stop]
                first = stop
            return after, block.with_fields(history=history)
        series = ring.shape[1]
        ago = np.arange(-self.longest_lag, 0)[:, None]
        history[: self.longest_lag] = ring[(block.start + ago) % self.windows, np.arange(series)]
        lengths = np.full(series, windows) if block.lengths is None else block.lengths
        row = np.arange(windows)[:, None]
        at, which = np.nonzero((row < lengths) & (row >= lengths - self.windows))
        ring[(block.start[which] + at) % self.windows, which] = block.values[at, which]
        return after, block.with_fields(history=history)


def in_order(ring: Floats, clock: Ints) -> Floats:
    """Return the values in a ring by time, oldest first.

    Args:
        ring: ``[S, R]``, the field ``values`` of `Ring`.
        clock: ``[S]``, the last window of each series.

    Returns:
        ``[S, R]``.
    """
    windows = ring.shape[1]
    places = (clock[:, None] + 1 + np.arange(windows)) % windows
    return np.take_along_axis(ring, places, axis=1)
