"""A delay line: forecasts stored until the actual values of their windows are observed.

A store is an array with ``R`` rows; the numbers issued at window ``w`` are in row ``w % R``.

Letters: T windows, S series, R rows of a store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Ints

Values = NDArray[Any]


def stored_before(store: Values, new: Values, start: Ints, ago: int) -> Values:
    """Return the forecasts that were issued ``ago`` windows before each window of a block.

    Args:
        store: ``[R, ..., S]``, the numbers issued before the block; R is at least ``ago``.
        new: ``[T, ..., S]``, the numbers issued at each window of the block.
        start: ``[1]`` or ``[S]``, the block's first window (of each series).
        ago: the delay in windows.

    Returns:
        ``[T, ..., S]``.
    """
    windows = len(new)
    kept = min(windows, ago)
    if len(start) == 1:
        old = [store[places] for places in slices_of_windows(int(start[0]) - ago, kept, len(store))]
        return np.concatenate([*old, new[: windows - kept]])
    rows = (start - ago + np.arange(kept)[:, None]) % len(store)
    at = rows.reshape(kept, *[1] * (store.ndim - 2), -1)
    return np.concatenate([np.take_along_axis(store, at, axis=0), new[: windows - kept]])


def store_forecasts(store: Values, new: Values, start: Ints, lengths: Ints | None) -> None:
    """Write a block's forecasts into ``store``, where each replaces the oldest stored forecast.

    Args:
        store: ``[R, ..., S]``, changed in place.
        new: ``[T, ..., S]``, the numbers issued at each window of the block.
        start: ``[1]`` or ``[S]``, the block's first window (of each series).
        lengths: ``[S]``, how many rows of ``new`` belong to each series; None for all.
    """
    windows, size = len(new), len(store)
    if len(start) == 1 and lengths is None:
        kept = min(windows, size)
        first = windows - kept
        for places in slices_of_windows(int(start[0]) + first, kept, size):
            stop = first + places.stop - places.start
            store[places] = new[first:stop]
            first = stop
        return
    series = store.shape[-1]
    until = np.full(series, windows) if lengths is None else lengths
    row = np.arange(windows)[:, None]
    at, which = np.nonzero((row < until) & (row >= until - size))
    slot = (np.broadcast_to(start, (series,))[which] + at) % size
    store[slot, ..., which] = new[at, ..., which]


def slices_of_windows(start: int, windows: int, size: int) -> list[slice]:
    """Return where consecutive windows are in a store: one slice, or two if they pass the store's end.

    ``windows`` is at most ``size``.
    """
    first = start % size
    stop = min(first + windows, size)
    rest = windows - (stop - first)
    return [slice(first, stop), slice(0, rest)] if rest else [slice(first, stop)]
