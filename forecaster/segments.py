"""What a network learns from, made a segment at a time.

Kept are the windows themselves. The inputs of a batch of series are made when it is visited, and targets are
views of its values until a segment of them is asked for: memory grows neither with the horizon nor with the
number of batches.

Letters: T windows, B series of a batch, F inputs, N horizon; t windows of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from forecaster.components.base import Floats32
from forecaster.components.inputs import network_inputs
from forecaster.config import NetworkConfig
from forecaster.state import Floats, Ints
from forecaster.windows import Windows
from schemas.errors import DataError

_TARGET_CLIP = 20.0  # in scales: one broken sensor must not own the gradient
_LARGEST = 1e150  # a window may be the sum of many rows, each of which is at most `observations.LARGEST`


class Segment(NamedTuple):
    """Some windows of a batch, as tensors.

    Attributes:
        x: ``[t, B, F]`` float32.
        learned: ``[t, B, N]`` float32, targets to learn from; NaN for all others.
        held_out: ``[t, B, N]`` float32, targets that only score; NaN for all others.
        weight: ``[t, B, 1]`` float32, the scale of the moment over the series' average one. Targets are in
            scales of the moment, people read errors in the series' unit: an error in a storm weighs what it
            weighs to them.
        unit: ``[t, B, 1]`` float32, the scale of the moment over the series' mean change from one window to
            the next: what brings errors into a unit that no setting changes. 0 for a constant series.
    """

    x: Tensor
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
        ahead: ``[T, B, N]`` float64, the next ``N`` values: a view, NaN where nothing came.
        last, scale: ``[T, B]`` float64, see `forecaster.components.inputs.Inputs`.
        first_target: ``[B]`` int64, row of the first target of each series in the fleet's windows.
        held_from: the first row of those that only score.
    """

    series_ids: tuple[str, ...]
    x: Tensor
    ahead: Floats
    last: Floats
    scale: Floats
    first_target: Ints
    held_from: int

    def __len__(self) -> int:
        return len(self.x)

    def targets(self, part: slice) -> Floats32:
        """``[t, B, N]`` float32, changes from the last value in scales; NaN where nothing came."""
        change = (self.ahead[part] - self.last[part, :, None]) / self.scale[part, :, None]
        return np.clip(change, -_TARGET_CLIP, _TARGET_CLIP).astype(np.float32)

    def segments(self, length: int) -> Iterator[Segment]:
        """The batch from its first window to its last, ``length`` windows at a time."""
        next_row = self.first_target + np.arange(len(self))[:, None]
        # The average scale knows nothing of what is held out, unless the series begins there and only scores.
        known = next_row < self.held_from
        known |= ~known.any(axis=0)
        average = (self.scale * known).sum(axis=0) / known.sum(axis=0)
        # Of all windows: a series that stood still up to the held-out ones needs a unit there, too.
        changes = np.abs(self.ahead[:, :, 0] - self.last)
        change = np.nansum(changes, axis=0) / np.maximum((~np.isnan(changes)).sum(axis=0), 1)
        per_change = np.divide(1.0, change, out=np.zeros_like(change), where=change > 0)
        horizons = np.arange(self.ahead.shape[2])
        for first in range(0, len(self), length):
            part = slice(first, first + length)
            scale, target = self.scale[part], self.targets(part)
            # A target is held out if its own window is: near horizons are learned from up to the very border.
            held_out = next_row[part, :, None] + horizons >= self.held_from
            yield Segment(
                self.x[part],
                torch.from_numpy(np.where(held_out, np.float32(np.nan), target)),
                torch.from_numpy(np.where(held_out, target, np.float32(np.nan))),
                torch.from_numpy((scale / average).astype(np.float32)[:, :, None]),
                torch.from_numpy((scale * per_change).astype(np.float32)[:, :, None]),
            )


@dataclass(frozen=True)
class Fleet:
    """Series in batches of similar length, the longest first.

    Attributes:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq_s: length of a window in seconds.
        held_from: row of the first of ``windows`` that only scores.
        begins: ``[S]`` int64, row of the first value of each series of ``windows``.
        batches: which series are in which batch.
    """

    windows: Windows
    network: NetworkConfig
    freq_s: int
    held_from: int
    begins: Ints
    batches: tuple[Ints, ...]
    _made: dict[int, Batch] = field(default_factory=dict)

    def batch(self, number: int) -> Batch:
        """Batch ``number``, which is kept until another is asked for: a fleet of one batch is made once."""
        if number not in self._made:
            self._made.clear()
            self._made[number] = self._make(self.batches[number])
        return self._made[number]

    def steps(self, length: int) -> int:
        """Segments of ``length`` windows, in all batches, that have something to learn from."""
        return sum(self.segments_to_learn_from(number, length) for number in range(len(self.batches)))

    def segments_to_learn_from(self, number: int, length: int) -> int:
        """How many segments of batch ``number``, its first, have a target that is not held out."""
        windows = self.held_from - 1 - int(self.begins[self.batches[number]].min())
        return max(-(-windows // length), 0)

    def _make(self, index: Ints) -> Batch:
        values, horizon = self.windows.values, self.network.horizon
        begins = self.begins[index]
        length = len(values) - int(begins.min())
        row = begins[None, :] + np.arange(length)[:, None]
        there = row < len(values)
        padded = np.full((length + horizon, len(index)), np.nan)
        padded[:length] = np.where(there, values[np.minimum(row, len(values) - 1), index[None, :]], np.nan)
        start = self.windows.start + begins
        inputs = network_inputs(padded[:length], start, self.freq_s, self.network)
        return Batch(
            tuple(self.windows.series_ids[i] for i in index),
            torch.from_numpy(inputs.x),
            sliding_window_view(padded[1:], horizon, axis=0),
            inputs.last,
            inputs.scale,
            begins + 1,
            self.held_from,
        )


def fleet_of(
    windows: Windows, network: NetworkConfig, freq_s: int, batch_series: int, held_from: int | None = None
) -> Fleet:
    """Cuts ``windows`` into batches of at most ``batch_series`` series that can be learned from.

    Args:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq_s: length of a window in seconds.
        batch_series: most series in a batch.
        held_from: row of the first window that only scores; none does by default.

    Raises:
        DataError: no series has two windows.
    """
    check_size(windows)
    has_value = ~np.isnan(windows.values)
    if not has_value.any():
        raise DataError("no series has a value: nothing to train on")
    begins = has_value.argmax(axis=0)
    lengths = np.where(has_value.any(axis=0), len(windows.values) - begins, 0)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 1]
    if not len(order):
        raise DataError("no series has two windows between its first value and its end: nothing to train on")
    batches = tuple(order[i : i + batch_series] for i in range(0, len(order), batch_series))
    return Fleet(
        windows, network, freq_s, len(windows.values) if held_from is None else held_from, begins, batches
    )


def check_size(windows: Windows) -> None:
    """Refuses values whose moments would overflow: rows are bounded by their schema, windows are not.

    Raises:
        DataError: a value is too large, or infinite; the line names the series.
    """
    largest = np.fmax.reduce(np.abs(windows.values), axis=0, initial=0.0)
    if (largest > _LARGEST).any():
        name = windows.series_ids[int(largest.argmax())]
        raise DataError(
            f"series {name!r} reaches {largest.max():g}, whose square leaves no room in a float64: take it "
            "out, or divide it by a power of ten"
        )
