"""A fleet as a network learns from it: series in batches of similar length.

Kept are the windows themselves. The inputs of a batch are made when it is visited, and its targets a segment
at a time (`forecaster.segments`). Memory does not grow with the horizon, and with the number of batches only
up to a bound.

Letters: T windows, S series, B series of a batch, F inputs, N horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.components.base import Floats32
from forecaster.components.inputs import network_inputs, with_covariates
from forecaster.components.linear import regressor_count
from forecaster.components.log_linear import ALL_RIDGES
from forecaster.components.past import PastCovariates
from forecaster.components.season import season_in
from forecaster.config import NetworkConfig
from forecaster.covariates import Covariates
from forecaster.frequency import Frequency
from forecaster.segments import Batch
from forecaster.state import Floats, Ints
from forecaster.windows import Windows
from schemas.errors import DataError

_KEPT_BYTES = 400 * 2**20  # of batches that need not be made again
_LARGEST = 1e150  # a window may be the sum of many rows, each of which is at most `observations.LARGEST`


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
    """Refuses values and covariates whose moments would overflow: rows are bounded, windows are not.

    Raises:
        DataError: a value is too large, or infinite; the line names the series.
    """
    for covariate, values in (("", windows.values), *windows.past.items()):
        largest = np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
        if (largest > _LARGEST).any():
            name = windows.series_ids[int(largest.argmax())]
            where = f"series {name!r}" + (f", covariate {covariate!r}," if covariate else "")
            raise DataError(
                f"{where} reaches {largest.max():g}, whose square leaves no room in a float64: take it out, "
                "or divide it by a power of ten"
            )
