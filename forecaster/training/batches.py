"""A fleet as a network learns from it: lives of series, in batches of similar length.

A life is a series from its first value until it retires (``windows.max_gap``); a series that returns has
another one, as it has where it is forecast.

Kept are the windows themselves. The inputs of a batch are made when it is visited, and its targets a segment
at a time (`forecaster.training.segments`). Memory does not grow with the horizon, and with the number of
batches only
up to a bound.

Letters: T windows, S series, L lives, B lives of a batch, F inputs, N horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Floats32
from forecaster.components.network.inputs import network_inputs, with_covariates
from forecaster.components.network.log_ridge import ALL_RIDGES
from forecaster.components.network.ridge import regressor_count
from forecaster.components.observed_covariates import PastCovariates
from forecaster.components.season import season_in
from forecaster.config import NetworkConfig
from forecaster.covariates.lookup import Covariates
from forecaster.state import Floats, Ints
from forecaster.time.frequency import Frequency
from forecaster.time.size_check import check_size
from forecaster.time.windows import NEVER, Windows, latest_rows
from forecaster.training.segments import Batch
from schemas.errors import DataError

_KEPT_BYTES = 400 * 2**20  # of batches that need not be made again


@dataclass(frozen=True)
class Fleet:
    """Lives of series in batches of similar length, the longest first.

    Attributes:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        held_from: row of the first of ``windows`` that only scores.
        series: ``[L]`` int64, place in ``windows`` of the series whose life it is.
        begins: ``[L]`` int64, row of the first value of each life.
        ends: ``[L]`` int64, one past the last row of each life.
        batches: which lives are in which batch.
        ridge: ``[3, F, N]`` float32, of the linear experts; None until it is fitted, or where there are none.
        prior: scale of a series of one value, as a share of it.
        covariates: what is known beside the values.
    """

    windows: Windows
    network: NetworkConfig
    freq: Frequency
    held_from: int
    series: Ints
    begins: Ints
    ends: Ints
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
        index = self.batches[number]
        windows = int((np.minimum(self.ends[index], self.held_from) - 1 - self.begins[index]).max())
        return max(-(-windows // length), 0)

    def _make(self, index: Ints) -> Batch:
        values, horizon = self.windows.values, self.network.horizon
        series, begins, ends = self.series[index], self.begins[index], self.ends[index]
        length = int((ends - begins).max())
        row = begins[None, :] + np.arange(length)[:, None]
        there = row < ends

        def begun(array: Floats) -> Floats:
            """``[length, B]``, each life from its first value on."""
            return np.where(there, array[np.minimum(row, len(values) - 1), series[None, :]], np.nan)

        padded = np.full((length + horizon, len(index)), np.nan)
        padded[:length] = begun(values)
        start = self.windows.index[begins]
        network = self.network
        ridge = self.ridge
        if network.linear and ridge is None:
            ridge = np.zeros((ALL_RIDGES, regressor_count(network.ring), horizon), np.float32)
        x, block = network_inputs(padded[:length], start, self.freq, network, ridge, self.prior)
        ids = tuple(self.windows.series_ids[i] for i in series)
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
    max_gap: int | None = None,
) -> Fleet:
    """Cuts ``windows`` into batches of at most ``batch_series`` lives that can be learned from.

    Args:
        windows: what was observed.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        batch_series: most lives in a batch.
        held_from: row of the first window that only scores; none does by default.
        covariates: what is known beside the values; nothing by default.
        max_gap: windows of silence after which a series retires; it never does by default.

    Raises:
        DataError: no series has two windows.
    """
    check_size(windows)
    if np.isnan(windows.values).all():
        raise DataError("no series has a value: nothing to train on")
    series, begins, ends = _lives(windows, len(windows.values) if max_gap is None else max_gap)
    lengths = ends - begins
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
        series,
        begins,
        ends,
        batches,
        covariates=covariates or Covariates(),
    )


def _lives(windows: Windows, max_gap: int) -> tuple[Ints, Ints, Ints]:
    """Series, first row, and one past the last row of each life, those of a series together."""
    seen = ~np.isnan(windows.values)
    rows, count = seen.shape
    latest = latest_rows(seen, np.full(count, NEVER))
    is_begin = seen & (np.arange(rows)[:, None] - latest[:-1] > max_gap + 1)
    series, begins = np.nonzero(is_begin.T)
    returns = np.append(series[1:] == series[:-1], False)
    last = latest[np.where(returns, np.append(begins[1:], rows), rows), series]
    return series, begins, np.minimum(last + max_gap + 1, rows)
