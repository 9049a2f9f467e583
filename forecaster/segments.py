"""What a network learns from, made a segment at a time.

Kept are the windows themselves. The inputs of a batch of series are made when it is visited, and targets are
views of its values until a segment of them is asked for. Memory does not grow with the horizon, and with the
number of batches only up to a bound.

Letters: T windows, B series of a batch, F inputs, K experts, N horizon; t windows of a segment, n rows of
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from forecaster.components.base import Block, Floats32
from forecaster.components.inputs import known_ahead, network_inputs, with_covariates
from forecaster.components.linear import regressor_count
from forecaster.components.log_linear import ALL_RIDGES, all_forecasts
from forecaster.components.past import PastCovariates
from forecaster.components.season import season_in
from forecaster.config import NetworkConfig
from forecaster.covariates import Covariates
from forecaster.frequency import Frequency
from forecaster.state import Floats, Ints
from forecaster.windows import Windows
from schemas.errors import DataError

_TARGET_CLIP = 200.0  # in units: one broken sensor must not own what is reported
_MOST_WEIGHT = 5.0
_KEPT_BYTES = 400 * 2**20  # of batches that need not be made again
_LARGEST = 1e150  # a window may be the sum of many rows, each of which is at most `observations.LARGEST`


class Segment(NamedTuple):
    """Some windows of a batch, as tensors, and what there is to learn at ``n`` rows of them.

    Attributes:
        x: ``[t, B, F]`` float32.
        rows: the ``n`` of its windows that are forecast from.
        experts: ``[K, n, B, N]`` float32, see `forecaster.components.linear`; None without a linear part.
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

    def targets(self, rows: Ints) -> Floats32:
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


@dataclass(frozen=True)
class Fleet:
    """Series in batches of similar length, the longest first.

    Attributes:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        held_from: row of the first of ``windows`` that only scores.
        begins: ``[S]`` int64, row of the first value of each series of ``windows``.
        batches: which series are in which batch.
        ridge: ``[3, F, N]`` float32, of the linear experts; None until it is fitted, or where there are none.
        prior: scale of a series of one value, as a share of it.
        covariates: what is known beside the values.
    """

    windows: Windows
    network: NetworkConfig
    freq: Frequency
    held_from: int
    begins: Ints
    batches: tuple[Ints, ...]
    ridge: Floats32 | None = None
    prior: float = 0.0
    covariates: Covariates = field(default_factory=Covariates)
    _made: dict[int, Batch] = field(default_factory=dict)

    def knowing(self, ridge: Floats32 | None, prior: float) -> Fleet:
        """The same fleet, seen by a network with this linear part and prior."""
        return replace(self, ridge=ridge, prior=prior, _made={})

    def batch(self, number: int) -> Batch:
        """Batch ``number``, which is kept if it fits in, until the next is asked for at the least."""
        if number not in self._made:
            if sum(batch.nbytes for batch in self._made.values()) > _KEPT_BYTES:
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

        def begun(array: Floats) -> Floats:
            """``[length, B]``, each series from its first value on."""
            return np.where(there, array[np.minimum(row, len(values) - 1), index[None, :]], np.nan)

        padded = np.full((length + horizon, len(index)), np.nan)
        padded[:length] = begun(values)
        start = self.windows.start + begins
        network = self.network
        ridge = self.ridge
        if network.linear and ridge is None:
            ridge = np.zeros((ALL_RIDGES, regressor_count(network.ring), horizon), np.float32)
        x, block = network_inputs(padded[:length], start, self.freq, network, ridge, self.prior)
        ids = tuple(self.windows.series_ids[i] for i in index)
        if not self.covariates.features.is_empty:
            known = self.covariates.known(ids, start, length + horizon)
            block = replace(block, known=known, static=self.covariates.static(ids))
            if names := self.covariates.features.observed:
                part = PastCovariates(names, network.halflife, ring=0)
                past = self.windows.past
                missing = np.full_like(values, np.nan)
                block = replace(block, past=np.stack([begun(past.get(n, missing)) for n in names], axis=2))
                _, block = part.step(part.init(len(index)), block)
            x = with_covariates(x, block)
        return Batch(
            ids,
            torch.from_numpy(x),
            block,
            sliding_window_view(padded[1:], horizon, axis=0),
            begins + 1,
            self.held_from,
            ridge,
            season_in(network.ring, self.freq),
            network.decoder,
        )


def fleet_of(
    windows: Windows,
    network: NetworkConfig,
    freq: Frequency,
    batch_series: int,
    held_from: int | None = None,
    covariates: Covariates | None = None,
) -> Fleet:
    """Cuts ``windows`` into batches of at most ``batch_series`` series that can be learned from.

    Args:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        batch_series: most series in a batch.
        held_from: row of the first window that only scores; none does by default.
        covariates: what is known beside the values; nothing by default.

    Raises:
        DataError: no series has two windows.
    """
    check_size(windows)
    has_value = ~np.isnan(windows.values)
    if not has_value.any():
        raise DataError("no series has a value: nothing to train on")
    begins = has_value.argmax(axis=0)
    lengths = np.where(has_value.any(axis=0), len(windows.values) - begins, 0)
    # Of one length in any order: neighbours in a file are often alike, and a batch should be of all kinds.
    order = np.random.default_rng(0).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    order = order[lengths[order] > 1]
    if not len(order):
        raise DataError("no series has two windows between its first value and its end: nothing to train on")
    batches = tuple(order[i : i + batch_series] for i in range(0, len(order), batch_series))
    return Fleet(
        windows,
        network,
        freq,
        len(windows.values) if held_from is None else held_from,
        begins,
        batches,
        covariates=covariates or Covariates(),
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
