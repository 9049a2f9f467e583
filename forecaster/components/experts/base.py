"""The base class of the experts, and the data that an expert reads.

An expert forecasts each series with a small model of that series.

Letters: T windows, S series, M past windows, K windows of a season, N horizon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.season import phases

# `in_scales` clips distances to this many scales, so that float32 can hold them.
FARTHEST = 1e9


class ExpertInputs(NamedTuple):
    """The data that an expert reads at the end of one window, or of each of several windows.

    Attributes:
        window: ``[..., S]`` int64, index of the window; ``[..., 1]`` if it is the same for all series.
        value: ``[..., S]`` float64, NaN if missing.
        past: ``[M + 1, ..., S]`` float64, the values of the last windows, this one last; NaN if missing.
        last: ``[..., S]`` float64, the last value observed.
        age: ``[..., S]`` int64, how many windows ago ``last`` was observed.
        scale: ``[..., S]`` float64 above 0, see `Block`.
        moves: ``[..., S]`` bool, see `Block`.
        shape: ``[K, ..., S]`` float64, the difference of each phase of the season from the season's mean.
    """

    window: Ints
    value: Floats
    past: Floats
    last: Floats
    age: Ints
    scale: Floats
    moves: Bools
    shape: Floats

    def rows(self, rows: slice) -> ExpertInputs:
        """Return the data of the windows in the slice ``rows``, as views."""
        past, shape = self.past[:, rows], self.shape[:, rows]
        own = (self.last[rows], self.age[rows], self.scale[rows], self.moves[rows])
        return ExpertInputs(self.window[rows], self.value[rows], past, *own, shape)

    def back(self, ago: Ints) -> Floats:
        """Return the values that were observed ``ago`` windows before each window, NaN if missing.

        ``ago`` is ``[n]``: for each window there are n values, ``[n, ..., S]``.
        """
        return self.past[len(self.past) - 1 - ago]

    def future_shape(self, ahead: Ints) -> Floats:
        """Return the season's shape ``ahead`` windows after each window.

        Each window has a phase of the season, and ``shape`` holds one number per phase.

        Args:
            ahead: numbers of windows, ``[n]`` or ``[n, ..., S]``; below 0 for earlier windows.

        Returns:
            ``[n, ..., S]``.
        """
        more = ahead.reshape(-1, *[1] * self.window.ndim) if ahead.ndim == 1 else ahead
        return phases(self.shape, self.window + more)


class Expert(ABC):
    """A component that forecasts each series with a small model, by two methods: `learn` and `forecast`.

    A forecast must be finite from the first value on. Before an expert has learned anything, a forecast near
    the last value is best. `step` adds the forecasts to the block's ``members``, under the expert's name.

    Arrays are passed to the two methods with the series as the last axis.
    """

    format_version = 1
    # These fields of the block become part of `ExpertInputs`.
    reads = frozenset({"history", "last", "age", "scale", "moves", "shape"})

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the component, under which its forecasts are added to the block's ``members``."""

    @property
    def writes(self) -> frozenset[str]:
        """The one field of the block that the expert fills, such as ``members.persistence``."""
        return frozenset({f"members.{self.name}"})

    @property
    @abstractmethod
    def reach(self) -> int:
        """M, the number of windows before the current one that the expert reads."""

    @abstractmethod
    def spec(self) -> Mapping[str, Field]:
        """Return the dtype and shape of each of the expert's arrays, by name."""

    def init(self, series: int) -> Arrays:
        """Return arrays of zeros as the initial arrays; a subclass can return others."""
        return {name: np.zeros((series, *field.shape), field.dtype) for name, field in self.spec().items()}

    def learn(self, own: Arrays, inputs: ExpertInputs, counts: Bools) -> Arrays:
        """Update the component's arrays in place; return the arrays that `forecast` reads, for each window.

        A subclass that learns overrides this.

        Args:
            own: the component's arrays, with their contents before the first window.
            inputs: all windows of a block.
            counts: ``[T, S]`` or ``[T, 1]``; a series learns only from the windows marked True.

        Returns:
            Some arrays of ``own`` by name, with the axis of the T windows before the last axis.
        """
        return {}

    @abstractmethod
    def forecast(self, own: Arrays, inputs: ExpertInputs) -> Floats32:
        """Return the forecasts issued at the end of each window of ``inputs``.

        Args:
            own: the arrays that `learn` returned.
            inputs: one window or several.

        Returns:
            ``[N, ..., S]``, changes from the last value in scales.
        """

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Learn window by window, then compute the forecasts of all windows and add them to ``members``."""
        own = {name: series_last(array) for name, array in own.items()}
        inputs = expert_inputs(block, self.reach)
        forecasts = self.forecast(self.learn(own, inputs, block.counts), inputs)
        own = {name: series_first(array) for name, array in own.items()}
        return own, block.with_fields(members={**block.members, self.name: forecasts})


def expert_inputs(block: Block, reach: int) -> ExpertInputs:
    """Return the inputs of an expert for all windows of a block, without a copy of the block's arrays.

    ``past`` holds, for each window, its value and the values of the ``reach`` windows before it.
    """
    windows = len(block.values)
    history = block.history[len(block.history) - windows - reach :]
    # The axes of ``past`` are past window (oldest first), window of the block, and series.
    (row, column), shape = history.strides, (reach + 1, windows, history.shape[1])
    past = as_strided(history, shape, (row, row, column), writeable=False)
    at = block.start[None, :] + np.arange(windows)[:, None]
    of_season = block.shape.swapaxes(0, 1)
    return ExpertInputs(at, block.values, past, block.last, block.age, block.scale, block.moves, of_season)


def in_scales(far: Floats, scale: Floats) -> Floats32:
    """Return distances in scales, clipped to ±`FARTHEST`: dividing by a tiny scale could give infinity."""
    return np.clip(far / scale, -FARTHEST, FARTHEST).astype(np.float32)
