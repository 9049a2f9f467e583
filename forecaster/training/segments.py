"""Segments of a `TrainingBatch`: inputs and targets of consecutive windows, from which a network learns.

Targets are views of the values until a segment is requested. They are in units: the unit of a series at a row
is its usual change from season to season (`forecaster.components.base.Block`).

Letters: T windows, B series of a batch, F inputs, K experts, N horizon, C known covariates, D static
features; t windows of a segment, n rows of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecaster.arrays import Floats32
from forecaster.components.base import Block
from forecaster.components.network.inputs import future_features
from forecaster.components.network.log_ridge import linear_forecasts
from forecaster.state import Floats, Ints

# Targets are clipped to plus or minus 200 units, so that one broken sensor does not dominate the loss.
_TARGET_CLIP = 200.0
_MOST_WEIGHT = 5.0


class Segment(NamedTuple):
    """Tensors of consecutive windows of a batch, and targets of the windows at which the network forecasts.

    Attributes:
        x: ``[t, B, F]`` float32, inputs.
        rows: the ``n`` rows at which the network forecasts.
        experts: ``[K, n, B, N]`` float32, see `forecaster.components.network.ridge`; None without a linear
            part.
        known: ``[n, N, B or 1, C]`` float32, known covariates of the windows ahead; None without a decoder.
        ahead: ``[n, B, N]`` float64, the values of the windows ahead that are not held out, NaN where missing
            or held out; None unless series have static features and there is a decoder.
        learned: ``[n, B, N]`` float32, targets to learn from; NaN where missing or held out.
        held_out: ``[n, B, N]`` float32, targets that are held out; NaN elsewhere.
        weight: ``[n, B, 1]`` float32, unit at the row over the series' average unit, 5 at most. Targets are
            in the unit at their row; this weight converts errors to the average unit, in which users read
            them.
        unit_per_change: ``[n, B, 1]`` float32, unit at the row over the series' mean change from window to
            window. It converts errors to mean changes, which do not depend on any setting. 0 for a constant
            series.
    """

    x: Tensor
    rows: slice
    experts: Tensor | None
    known: Tensor | None
    ahead: Tensor | None
    learned: Tensor
    held_out: Tensor
    weight: Tensor
    unit_per_change: Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """Inputs and targets of active periods that are stepped together, aligned at their first values.

    Attributes:
        series_ids: the series of each of the ``B`` periods.
        x: ``[T, B, F]`` float32, inputs.
        block: the ``T`` windows, with the outputs of ring and moments.
        ahead: ``[T, B, N]`` float64, the next ``N`` values as a view; NaN where missing.
        first_target: ``[B]`` int64, row of the first target of each period in the fleet's windows.
        held_from: row of the first window that is held out.
        ridge: ``[3, F, N]`` float32, coefficients of the ridge regressions; None without a linear part.
        season: windows of a season.
        decoder: whether the network has a decoder, which reads the known covariates of windows ahead.
    """

    series_ids: tuple[str, ...]
    x: Tensor
    block: Block
    ahead: Floats
    first_target: Ints
    held_from: int
    ridge: Floats32 | None
    season: int
    decoder: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def nbytes(self) -> int:
        """The approximate size of the batch in memory, in bytes."""
        return int(self.x.nbytes) + 14 * int(self.block.values.nbytes) + int(self.block.known.nbytes)

    def targets(self, rows: slice | NDArray[np.integer[Any]]) -> Floats32:
        """Return the targets at ``rows``: changes from the last value to the value at each horizon, in units.

        ``[n, B, N]`` float32, by row, active period and horizon, clipped to 200 units; NaN where missing.
        """
        last, unit = (array[rows][:, :, None] for array in (self.block.last, self.block.unit))
        return np.clip((self.ahead[rows] - last) / unit, -_TARGET_CLIP, _TARGET_CLIP).astype(np.float32)

    def experts(self, rows: Ints) -> Tensor | None:
        """Return the forecasts that all linear experts make at ``rows``; None without linear experts.

        ``[K, n, B, N]`` float32, by expert, row, active period and horizon.
        """
        if self.ridge is None:
            return None
        return torch.from_numpy(linear_forecasts(self.block, self.ridge, self.season, rows))

    def known(self, rows: slice) -> Tensor | None:
        """Return the known features of the ``N`` windows after each row of ``rows``; None without a decoder.

        ``[n, N, B or 1, C]`` float32, by row, horizon, active period (1 if all have the same) and feature.
        """
        return (
            torch.from_numpy(future_features(self.block, rows, self.ahead.shape[2])) if self.decoder else None
        )

    def static(self) -> Tensor | None:
        """Return the static features, float32, with one row per active period; None if there are none."""
        return torch.from_numpy(self.block.static) if self.block.static.size else None

    def weight(self) -> Floats32:
        """Return weights of at most 5 that convert errors from the unit of a window to the average unit.

        The average is over an active period. The axes are window and active period. See `Segment.weight`.
        """
        next_row = self.first_target + np.arange(len(self))[:, None]
        # Average the unit of each active period over the windows before a window that is not held out.
        # If a period has no such window, average the unit over all its windows.
        is_learned = next_row < self.held_from
        is_learned |= ~is_learned.any(axis=0)
        average = (self.block.unit * is_learned).sum(axis=0) / is_learned.sum(axis=0)
        weight: Floats32 = np.minimum(self.block.unit / average, _MOST_WEIGHT).astype(np.float32)
        return weight

    def segments(
        self, length: int, every: int = 1, rng: np.random.Generator | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of the batch in order, each of ``length`` windows; the last can be shorter.

        Args:
            length: windows in a segment.
            every: the network forecasts from one window in this many.
            rng: draws the first of these windows in each segment, for training. By default it is the first
                window of the segment, and in a segment with a held-out target the network forecasts from all
                windows.
        """
        weight, per_change = self.weight(), self._inverse_mean_change()
        for first in range(0, len(self), length):
            windows = range(first, min(first + length, len(self)))
            rows = self._forecast_rows(windows, every, rng)
            yield self._segment(windows, rows, weight, per_change)

    def _inverse_mean_change(self) -> Floats:
        """Return 1 over the mean absolute change of each active period; 0 for a period without changes."""
        # Include the changes in held-out windows: a series may be constant in all other windows.
        changes = np.abs(self.ahead[:, :, 0] - self.block.last)
        change = np.nansum(changes, axis=0) / np.maximum((~np.isnan(changes)).sum(axis=0), 1)
        per_change: Floats = np.divide(1.0, change, out=np.zeros_like(change), where=change > 0)
        return per_change

    def _forecast_rows(self, windows: range, every: int, rng: np.random.Generator | None) -> range:
        """Return the rows of the batch at which the network forecasts: some or all of ``windows``.

        `segments` documents ``every`` and ``rng``.
        """
        if rng is not None:
            # The first forecast row is random. The last window of the batch has no target, so it is not
            # drawn, unless the segment has no other window.
            followed = max(1, min(windows.stop, len(self) - 1) - windows.start)
            return windows[int(rng.integers(min(every, followed))) :: every]
        newest_target = self.first_target + windows[-1] + self.ahead.shape[2] - 1
        return windows if (newest_target >= self.held_from).any() else windows[::every]

    def _segment(self, windows: range, rows: range, weight: Floats32, per_change: Floats) -> Segment:
        """Return the segment of ``windows``; of these, the network forecasts only at windows in ``rows``."""
        index, part = np.array(rows), slice(rows.start, rows.stop, rows.step)
        target = self.targets(index)
        # A target is held out if its own window is at or after ``held_from``, whenever it is forecast.
        # Therefore, a longer horizon has fewer training targets.
        target_row = (self.first_target + index[:, None])[:, :, None] + np.arange(self.ahead.shape[2])
        held_out = target_row >= self.held_from
        has_cold_loss = self.decoder and self.block.static.size
        return Segment(
            self.x[windows.start : windows.stop],
            slice(rows.start - windows.start, None, rows.step),
            self.experts(index),
            self.known(part),
            torch.from_numpy(np.where(held_out, np.nan, self.ahead[part])) if has_cold_loss else None,
            torch.from_numpy(np.where(held_out, np.float32(np.nan), target)),
            torch.from_numpy(np.where(held_out, target, np.float32(np.nan))),
            torch.from_numpy(weight[part][:, :, None]),
            torch.from_numpy((self.block.unit[part] * per_change).astype(np.float32)[:, :, None]),
        )
