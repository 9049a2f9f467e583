"""Blocks of windows: arrays with one value for each series and window.

Windows are counted from the Unix epoch, in UTC (see `forecaster.time.frequency`). All code that steps the
network uses these integers; only outputs for people have timestamps.
Letters: T windows, S series, C covariates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import accumulate_rows
from forecaster.time.window_config import WindowConfig

MICROSECONDS = 1_000_000
NEVER = -(2**62)
"""The number that is used as the row of the last value if a series has no value yet."""


_DAYS_OF_ISO = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Windows:
    """A block of closed windows in rising order; windows in which no series is live may be left out.

    Attributes:
        series_ids: ``S`` distinct ids.
        start: index of the first window.
        values: ``[T, S]`` float64; NaN if a series has no value in a window.
        past: observed covariates by name, ``[T, S]`` float64 each; NaN if missing.
        index: ``[T]`` int64, the window of each row; by default consecutive windows from ``start``.
    """

    series_ids: tuple[str, ...]
    start: int
    values: NDArray[np.float64]
    past: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    index: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.series_ids):
            raise ValueError(
                f"values have the shape {self.values.shape}; they need a column for each of the "
                f"{len(self.series_ids)} series"
            )
        for name, array in self.past.items():
            if array.shape != self.values.shape:
                raise ValueError(
                    f"covariate {name!r} has the shape {array.shape}; it needs the shape of the values, "
                    f"{self.values.shape}"
                )
        if not len(self.index):
            object.__setattr__(self, "index", self.start + np.arange(len(self.values)))
        if len(self.index) != len(self.values) or (np.diff(self.index) < 1).any():
            raise ValueError("index must hold one window for each row of values, in rising order")

    @property
    def stop(self) -> int:
        """The index of the window after the last window."""
        return int(self.index[-1]) + 1 if len(self.index) else self.start

    @property
    def filled(self) -> NDArray[np.int64]:
        """The indices of the windows in which at least one series has a value."""
        return self.index[~np.isnan(self.values).all(axis=1)]

    def between(self, start: int, stop: int) -> Windows:
        """Return a block of this block's windows in ``[start, stop)``; the bounds may lie outside it."""
        first, last = np.searchsorted(self.index, [start, stop]).tolist()
        part = self.rows(first, last)
        return part if len(part.values) else replace(part, start=max(start, self.start))

    def rows(self, first: int, stop: int) -> Windows:
        """Return a block with the rows ``[first, stop)`` of this block's arrays."""
        index = self.index[first:stop]
        start = int(self.index[first]) if first < len(self.index) else self.stop
        past = {name: array[first:stop] for name, array in self.past.items()}
        return Windows(self.series_ids, start, self.values[first:stop], past, index)

    def runs(self) -> Iterator[Windows]:
        """Split the block where windows are left out, and yield its parts, each with consecutive windows."""
        breaks = np.flatnonzero(np.diff(self.index) > 1) + 1
        for first, stop in pairwise([0, *breaks.tolist(), len(self.index)]):
            yield self.rows(first, stop)

    def row_of(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for each given window, the row of the block's last window up to it; -1 if there is none."""
        return np.searchsorted(self.index, window, side="right") - 1

    def of_series(self, index: Sequence[int] | NDArray[np.int64]) -> Windows:
        """Return a block with only the series at the positions ``index``, in that order."""
        past = {name: array[:, index] for name, array in self.past.items()}
        ids = tuple(self.series_ids[i] for i in index)
        return Windows(ids, self.start, self.values[:, index], past, self.index)

    def stacked_covariates(self, names: Sequence[str]) -> NDArray[np.float64] | None:
        """Return the covariates called ``names`` in one array; None if there are no names.

        ``[T, S, C]`` float64, by window, series and covariate; NaN where missing.
        """
        if not names:
            return None
        nothing = np.full(self.values.shape, np.nan)
        return np.stack([self.past.get(name, nothing) for name in names], axis=2)


def latest_rows(seen: NDArray[np.bool_], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each row of a block and for its end, the last earlier row in which each series has a value.

    Args:
        seen: ``[T, S]``, whether there is a value.
        before: ``[S]``, the row of the last value before the block, which is negative; `NEVER` without one.

    Returns:
        ``[T + 1, S]``.
    """
    latest = np.empty((len(seen) + 1, seen.shape[1]), np.int64)
    latest[0] = before
    latest[1:] = np.where(seen, np.arange(len(seen))[:, None], NEVER)
    accumulate_rows(np.maximum, latest)
    return latest


def observed(windows: Windows, config: WindowConfig) -> Windows:
    """Replace empty windows of live series by 0 if ``config.empty`` is "zero".

    A series is live from its first value until it has had none for more than ``config.max_gap`` windows.
    Training, evaluation and baselines all use this function, so that "empty" has one meaning;
    `forecaster.stepping.advance.advance` does the same by the clock of each series.
    """
    if config.empty == "missing":
        return windows
    missing = np.isnan(windows.values)
    latest = latest_rows(~missing, np.full(missing.shape[1], NEVER))[1:]
    # ``values`` leaves out only windows in which no series is live. So while a series is live, the number
    # of rows since its last value is also the number of windows since that value.
    is_live = np.arange(len(missing))[:, None] - latest <= config.max_gap
    return replace(windows, values=np.where(missing & is_live, 0.0, windows.values))
