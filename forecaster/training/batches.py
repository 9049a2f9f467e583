"""Cut series into batches of active periods of similar length, from which a network learns.

An active period of a series lasts from its first value until it retires (``windows.max_gap``). A series that
returns later has another active period, as in a running job.

A fleet stores only the windows. The inputs of a batch are computed when it is visited, and its targets one
segment at a time (`forecaster.training.segments`). So memory does not grow with the horizon, and it grows
with the number of batches only up to a bound.

Letters: T windows, S series, L active periods, B active periods of a batch, F inputs, N horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Floats32
from forecaster.components.network.inputs import network_inputs, with_covariates
from forecaster.components.network.log_ridge import ALL_RIDGE_COUNT
from forecaster.components.network.ridge import regressor_count
from forecaster.components.observed_covariates import ObservedCovariates
from forecaster.components.season import ring_season
from forecaster.config import NetworkConfig
from forecaster.covariates.lookup import Covariates
from forecaster.state import Floats, Ints
from forecaster.time.frequency import Frequency
from forecaster.time.size_check import check_size
from forecaster.time.windows import NEVER, Windows, latest_rows
from forecaster.training.segments import TrainingBatch
from schemas.errors import DataError

_KEPT_BYTES = 400 * 2**20  # the cache is emptied when its batches together take more bytes than this


@dataclass(frozen=True)
class Fleet:
    """Active periods of series, in batches of periods of similar length; the longest periods come first.

    An active period begins with the first value of a series, and ends when the series retires.

    Attributes:
        windows: the values.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        held_from: row of the first window that is held out, which is used for scores only.
        series: ``[L]`` int64, column in ``windows`` of the series of each active period.
        begins: ``[L]`` int64, row of the first value of each active period.
        ends: ``[L]`` int64, one past the last row of each active period.
        batches: the active periods of each batch, as positions ``[B]`` int64.
        ridge: ``[3, F, N]`` float32, coefficients of the ridge regressions; None before they are fitted, or
            without a linear part.
        prior: scale of a series with one value, as a share of that value.
        covariates: covariates of the series and windows.
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
    _cached: dict[int, TrainingBatch] = field(default_factory=dict)

    def with_linear_part(self, ridge: Floats32 | None, prior: float) -> Fleet:
        """Return a copy of this fleet with new values of its fields ``ridge`` and ``prior``, see `Fleet`."""
        return replace(self, ridge=ridge, prior=prior, _cached={})

    def batch(self, number: int) -> TrainingBatch:
        """Return batch ``number``; compute it if it is not in the cache."""
        if number not in self._cached:
            if sum(batch.nbytes for batch in self._cached.values()) > _KEPT_BYTES:
                self._cached.clear()
            self._cached[number] = self._compute_batch(self.batches[number])
        return self._cached[number]

    def steps(self, length: int) -> int:
        """Return the number of training steps in an epoch: one per segment that has a target not held out.

        A segment has ``length`` windows. The segments of all batches count.
        """
        return sum(self.count_training_segments(number, length) for number in range(len(self.batches)))

    def count_training_segments(self, number: int, length: int) -> int:
        """Return how many segments of ``length`` windows of a batch have a target that is not held out.

        They are the first segments of the batch.
        """
        index = self.batches[number]
        windows = int((np.minimum(self.ends[index], self.held_from) - 1 - self.begins[index]).max())
        return max(-(-windows // length), 0)

    def _compute_batch(self, index: Ints) -> TrainingBatch:
        """Compute the batch of the active periods ``index``; row 0 holds the first value of each period."""
        values, horizon = self.windows.values, self.network.horizon
        series, begins, ends = self.series[index], self.begins[index], self.ends[index]
        length = int((ends - begins).max())
        row = begins[None, :] + np.arange(length)[:, None]
        is_active = row < ends

        def aligned(array: Floats) -> Floats:
            """Return a column of ``array`` for each active period: its values, then NaN."""
            return np.where(is_active, array[np.minimum(row, len(values) - 1), series[None, :]], np.nan)

        padded = np.full((length + horizon, len(index)), np.nan)
        padded[:length] = aligned(values)
        start = self.windows.index[begins]
        network = self.network
        ridge = self.ridge
        if network.linear and ridge is None:
            ridge = np.zeros((ALL_RIDGE_COUNT, regressor_count(network.ring), horizon), np.float32)
        x, block = network_inputs(padded[:length], start, self.freq, network, ridge, self.prior)
        ids = tuple(self.windows.series_ids[i] for i in series)
        if not self.covariates.features.is_empty:
            known = self.covariates.known(ids, start, length + horizon)
            block = replace(block, known=known, static=self.covariates.static(ids))
            if names := self.covariates.features.observed:
                part = ObservedCovariates(names, network.halflife, ring=0)
                past = self.windows.past
                missing = np.full_like(values, np.nan)
                block = replace(block, past=np.stack([aligned(past.get(n, missing)) for n in names], axis=2))
                _, block = part.step(part.init(len(index)), block)
            x = with_covariates(x, block)
        return TrainingBatch(
            ids,
            torch.from_numpy(x),
            block,
            sliding_window_view(padded[1:], horizon, axis=0),
            begins + 1,
            self.held_from,
            ridge,
            ring_season(network.ring, self.freq),
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
    """Put the active periods of at least two windows into batches of at most ``batch_series`` periods.

    Args:
        windows: the values.
        network: settings of the inputs, and the horizon.
        freq: length of a window.
        batch_series: most active periods in a batch.
        held_from: row of the first window that is held out; by default none is.
        covariates: covariates of the series and windows; none by default.
        max_gap: number of windows without a value after which a series retires; by default it never does.

    Raises:
        DataError: no series has a value, or no active period has two windows.
    """
    check_size(windows)
    if np.isnan(windows.values).all():
        raise DataError("no series has a value: nothing to train on")
    series, begins, ends = _active_periods(windows, len(windows.values) if max_gap is None else max_gap)
    lengths = ends - begins
    # Shuffle periods of equal length: series that are neighbours in a file are often alike, and a batch
    # should be varied.
    order = np.random.default_rng(0).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    order = order[lengths[order] > 1]
    if not len(order):
        raise DataError("no active period of a series is longer than one window: nothing to train on")
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


def _active_periods(windows: Windows, max_gap: int) -> tuple[Ints, Ints, Ints]:
    """Return the series, the first row and the end row (exclusive) of each active period.

    The periods are sorted by series and row.
    """
    seen = ~np.isnan(windows.values)
    rows, count = seen.shape
    latest = latest_rows(seen, np.full(count, NEVER))
    is_begin = seen & (np.arange(rows)[:, None] - latest[:-1] > max_gap + 1)
    series, begins = np.nonzero(is_begin.T)
    returns = np.append(series[1:] == series[:-1], False)
    last = latest[np.where(returns, np.append(begins[1:], rows), rows), series]
    return series, begins, np.minimum(last + max_gap + 1, rows)
