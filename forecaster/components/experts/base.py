"""What an expert is: a small forecaster of one series that learns as it goes, all series at once.

Letters: T windows, S series, M past windows, K windows of a season, N horizon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.season import phases

FARTHEST = 1e9  # scales, well within single precision


class Seen(NamedTuple):
    """What an expert sees as a window closes: of one window, or of ``T`` at once.

    Attributes:
        window: ``[..., S]`` int64, index of the window; ``[..., 1]`` where it is one for all.
        value: ``[..., S]`` float64, NaN where missing.
        past: ``[M + 1, ..., S]`` float64, the windows up to this one, which is the last; NaN where missing.
        last: ``[..., S]`` float64, the last value observed.
        age: ``[..., S]`` int64, how many windows ago that was.
        scale: ``[..., S]`` float64, the unit of the series, above 0.
        moves: ``[..., S]`` bool, see `Block`.
        shape: ``[K, ..., S]`` float64, how far the phases of a season lie from its mean.
    """

    window: Ints
    value: Floats
    past: Floats
    last: Floats
    age: Ints
    scale: Floats
    moves: Bools
    shape: Floats

    def at(self, t: int) -> Seen:
        """The window ``t`` of several."""
        one = (self.window[t], self.value[t], self.past[:, t], self.last[t], self.age[t])
        return Seen(*one, self.scale[t], self.moves[t], self.shape[:, t])

    def back(self, ago: Ints) -> Floats:
        """``[n, ..., S]`` the values ``ago`` ``[n]`` windows ago, NaN where missing."""
        return self.past[len(self.past) - 1 - ago]

    def shape_ahead(self, ahead: Ints) -> Floats:
        """``[n, ..., S]`` the season's shape ``ahead`` windows from this one: ``[n]``, or ``[n, ..., S]``."""
        more = ahead.reshape(-1, *[1] * self.window.ndim) if ahead.ndim == 1 else ahead
        return phases(self.shape, self.window + more)


class Expert(ABC):
    """A component that forecasts, by a contract of two methods: it learns a window, then says what follows.

    A forecast is finite from the first value on, and best near the last value before anything is learned.
    What an expert says goes into ``members`` of the block, under its name.

    Arrays are handed over with series as their last axis.
    """

    format_version = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the component and of the member."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """M: how many windows it looks back."""

    @property
    def recalled(self) -> tuple[str, ...]:
        """Fields that a forecast depends on."""
        return ()

    @abstractmethod
    def spec(self) -> Mapping[str, Field]:
        """See `Component`."""

    def init(self, series: int) -> Arrays:
        """Zeros, where an expert does not say otherwise."""
        return {name: np.zeros((series, *field.shape), field.dtype) for name, field in self.spec().items()}

    @abstractmethod
    def learn(self, own: Arrays, seen: Seen, counts: Bools) -> None:
        """Takes one window in, writing into ``own``, for the series that count ``[S]``."""

    @abstractmethod
    def forecast(self, own: Arrays, seen: Seen) -> Floats32:
        """What follows ``seen``, by what ``own`` has recalled of its fields.

        Returns:
            ``[N, ..., S]``, changes from the last value in scales.
        """

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Learns window by window and forecasts from all of them at once; adds ``members``."""
        own = {name: series_last(array) for name, array in own.items()}
        windows, series = block.values.shape
        recalled = {
            name: np.empty((*own[name].shape[:-1], windows, series), own[name].dtype)
            for name in self.recalled
        }
        seen = seen_in(block, self.reach)
        for t in range(windows if own else 0):
            counts = block.counts(t)
            self.learn(own, seen.at(t), np.ones(series, bool) if counts is None else counts)
            for name, array in recalled.items():
                array[..., t, :] = own[name]
        said = self.forecast(recalled, seen)
        own = {name: series_first(array) for name, array in own.items()}
        return own, replace(block, members={**block.members, self.name: said})


def seen_in(block: Block, reach: int) -> Seen:
    """All windows of a block, with ``reach`` windows before each: views of its arrays."""
    windows = len(block.values)
    history = block.history[len(block.history) - windows - reach :]
    past = np.moveaxis(sliding_window_view(history, windows, axis=0), -1, 1)  # [M + 1, T, S]
    at = block.start[None, :] + np.arange(windows)[:, None]
    shape = np.moveaxis(block.shape, 1, 0)
    return Seen(at, block.values, past, block.last, block.age, block.scale, block.moves, shape)


def in_scales(far: Floats, scale: Floats) -> Floats32:
    """Distances in scales; a scale may be so small that they would leave the range of single precision."""
    return np.clip(far / scale, -FARTHEST, FARTHEST).astype(np.float32)
