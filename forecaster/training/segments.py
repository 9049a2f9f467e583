"""What a network learns from, a segment at a time: inputs of a batch of series, and targets.

Targets are views of values until a segment of them is asked for.

Letters: T windows, B series of a batch, F inputs, K experts, N horizon; t windows of a segment, n rows of
them.
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
from forecaster.components.network.inputs import known_ahead
from forecaster.components.network.log_ridge import all_forecasts
from forecaster.state import Floats, Ints

_TARGET_CLIP = 200.0  # in units: one broken sensor must not own what is reported
_MOST_WEIGHT = 5.0


class Segment(NamedTuple):
    """Some windows of a batch, as tensors, and what there is to learn at ``n`` rows of them.

    Attributes:
        x: ``[t, B, F]`` float32.
        rows: the ``n`` of its windows that are forecast from.
        experts: ``[K, n, B, N]`` float32, see `forecaster.components.network.ridge`; None without a linear
        part.
        known: ``[n, N, B or 1, C]`` float32, what is known of the windows ahead; None without a decoder.
        ahead: ``[n, B, N]`` float64, the values to learn from themselves, NaN likewise; None unless series
            have static features and there is a decoder.
        learned: ``[n, B, N]`` float32, targets to learn from; NaN for all others.
        held_out: ``[n, B, N]`` float32, targets that only score; NaN for all others.
        weight: ``[n, B, 1]`` float32, the unit of the moment over the series' average one, 5 at most. Targets
            are in units of the moment, people read errors in those of the series: an error in a storm weighs
            what it weighs to them.
        unit: ``[n, B, 1]`` float32, the unit of the moment over the series' mean change from one window to
            the next: what brings errors into a unit that no setting changes. 0 for a constant series.
    """

    x: Tensor
    rows: slice
    experts: Tensor | None
    known: Tensor | None
    ahead: Tensor | None
    learned: Tensor
    held_out: Tensor
    weight: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Batch:
    """Series that are stepped together, each beginning at its own first value.

    Attributes:
        series_ids: of its ``B`` series.
        x: ``[T, B, F]`` float32.
        block: the ``T`` windows, with what ring and moments say of them.
        ahead: ``[T, B, N]`` float64, the next ``N`` values: a view, NaN where nothing came.
        first_target: ``[B]`` int64, row of the first target of each series in the fleet's windows.
        held_from: the first row of those that only score.
        ridge: ``[3, F, N]`` float32, of the linear experts; None where there are none.
        season: windows of a season.
        decoder: whether what is known of the windows ahead is looked at.
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
        """About how much memory it holds on to."""
        return int(self.x.nbytes) + 14 * int(self.block.values.nbytes) + int(self.block.known.nbytes)

    def targets(self, rows: slice | NDArray[np.integer[Any]]) -> Floats32:
        """``[n, B, N]`` float32, changes from the last value in units; NaN where nothing came."""
        last, unit = (array[rows][:, :, None] for array in (self.block.last, self.block.unit))
        return np.clip((self.ahead[rows] - last) / unit, -_TARGET_CLIP, _TARGET_CLIP).astype(np.float32)

    def experts(self, rows: Ints) -> Tensor | None:
        """``[K, n, B, N]`` float32, what the linear experts forecast."""
        if self.ridge is None:
            return None
        return torch.from_numpy(all_forecasts(self.block, self.ridge, self.season, rows))

    def known(self, rows: slice) -> Tensor | None:
        """``[n, N, B or 1, C]`` float32, see `Segment`."""
        return torch.from_numpy(known_ahead(self.block, rows, self.ahead.shape[2])) if self.decoder else None

    def static(self) -> Tensor | None:
        """``[B, D]`` float32, what is known of each series; None where nothing is."""
        return torch.from_numpy(self.block.static) if self.block.static.size else None

    def weight(self) -> Floats32:
        """``[T, B]`` float32, see `Segment`."""
        next_row = self.first_target + np.arange(len(self))[:, None]
        # The average unit knows nothing of what is held out, unless the series begins there and only scores.
        known = next_row < self.held_from
        known |= ~known.any(axis=0)
        average = (self.block.unit * known).sum(axis=0) / known.sum(axis=0)
        weight: Floats32 = np.minimum(self.block.unit / average, _MOST_WEIGHT).astype(np.float32)
        return weight

    def segments(
        self, length: int, every: int = 1, chance: np.random.Generator | None = None
    ) -> Iterator[Segment]:
        """The batch from its first window to its last, ``length`` windows at a time.

        Args:
            length: windows in a segment.
            every: how many windows there are to one that is forecast from.
            chance: draws which they are, to learn from. By default the first of a segment is one, and all
                are where a target only scores.
        """
        next_row = self.first_target + np.arange(len(self))[:, None]
        weight = self.weight()
        # Of all windows: a series that stood still up to the held-out ones needs a unit there, too.
        changes = np.abs(self.ahead[:, :, 0] - self.block.last)
        change = np.nansum(changes, axis=0) / np.maximum((~np.isnan(changes)).sum(axis=0), 1)
        per_change = np.divide(1.0, change, out=np.zeros_like(change), where=change > 0)
        horizons, cold = np.arange(self.ahead.shape[2]), self.decoder and self.block.static.size
        for first in range(0, len(self), length):
            part = range(first, min(first + length, len(self)))
            # Of the last windows only those with another after them can teach something.
            followed = max(1, min(part.stop, len(self) - 1) - part.start)
            phase = int(chance.integers(min(every, followed))) if chance is not None else 0
            scores = chance is None and (next_row[part[-1]] + horizons[-1] >= self.held_from).any()
            step = 1 if scores else every
            rows = np.array(part[phase::step])
            target = self.targets(rows)
            # A target is held out if its own window is: near horizons are learned from up to the very border.
            held_out = next_row[rows, :, None] + horizons >= self.held_from
            yield Segment(
                self.x[part.start : part.stop],
                slice(phase, None, step),
                self.experts(rows),
                self.known(slice(part.start + phase, part.stop, step)),
                torch.from_numpy(np.where(held_out, np.nan, self.ahead[rows])) if cold else None,
                torch.from_numpy(np.where(held_out, np.float32(np.nan), target)),
                torch.from_numpy(np.where(held_out, target, np.float32(np.nan))),
                torch.from_numpy(weight[rows][:, :, None]),
                torch.from_numpy((self.block.unit[rows] * per_change).astype(np.float32)[:, :, None]),
            )
