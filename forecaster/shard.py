"""What a worker holds for a part of the fleet, and the two things that happen to it.

Rows come (`admit`), windows close (`close`). The backfill and the stream differ only in when they call which.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping import Forecasts, advance
from forecaster.windows import aggregate, window_index


def shard_of(series_id: str, shards: int) -> int:
    """The shard of a series: the same on every worker, machine and run (CRC-32 of the id)."""
    return zlib.crc32(series_id.encode()) % shards


@dataclass(frozen=True)
class Closed:
    """What closing windows made of a shard.

    Attributes:
        state: the fleet's state after the last closed window.
        pending: observation frame of the rows whose windows are still open.
        used: rows that went into closed windows.
        duplicates: rows among the closed ones that were copies of another.
    """

    state: State
    pending: pl.DataFrame
    used: int
    duplicates: int


def admit(rows: pl.DataFrame, closed_through: int | None, freq_s: int) -> tuple[pl.DataFrame, int]:
    """Rows whose windows are still open, and how many came too late for theirs.

    Args:
        rows: observation frame.
        closed_through: last closed window of the whole job (a new series is late where the others are);
            None before the first.
        freq_s: length of a window in seconds.
    """
    if closed_through is None or not len(rows):
        return rows, 0
    still_open = rows.filter(window_index(pl.col("timestamp"), freq_s) > closed_through)
    return still_open, len(rows) - len(still_open)


def closings(
    forecaster: Forecaster, state: State, pending: pl.DataFrame, through: int, windows_per_step: int
) -> Iterator[tuple[Forecasts | None, Closed]]:
    """Closes every window up to and including ``through``, a block of at most ``windows_per_step`` at a time.

    Blocks end at multiples of ``windows_per_step``, so that a rerun forms the same ones.

    Yields:
        After each block its forecasts (None where the shard has no series yet) and the shard as it then is.
    """
    freq_s = forecaster.window_config.freq_s
    index = pending.select(window_index(pl.col("timestamp"), freq_s)).to_series()
    if not index.is_sorted():
        order = index.arg_sort()
        pending, index = pending[order], index[order]
    begins = [int(state.clock.max()) + 1] if len(state) else index[:1].to_list()
    start = min(begins, default=through + 1)
    if start > through:
        yield None, Closed(state, pending, 0, 0)
        return
    low = 0
    while start <= through:
        stop = min(through + 1, (start // windows_per_step + 1) * windows_per_step)
        high = int(index.search_sorted(stop, side="left"))
        rows, low = pending[low:high], high
        windows, duplicates = aggregate(rows, forecaster.window_config, start, stop)
        state, forecasts = advance(forecaster, state, windows)
        yield forecasts, Closed(state, pending[high:], len(rows) - duplicates, duplicates)
        start = stop
