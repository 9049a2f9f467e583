"""Prediction intervals that are calibrated by the errors of past forecasts, per series and horizon.

Letters: T windows, S series, N horizon, Q quantiles, A anchor horizons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints32, accumulate_rows
from forecaster.components.anchors import anchor_horizons, by_horizon
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.delay_line import store_forecasts, stored_before
from forecaster.components.scores import scored_places

# Once `_TRUSTED` residuals were observed, a quantile's distance from the median is the learned distance.
# With fewer residuals, the distance is a weighted mean of the learned distance and the network's distance.
_TRUSTED = 40
# In the running mean of absolute residuals, a residual counts as at most this many times that mean.
# It counts in full while the mean is at most `_NO_UNIT` scales: a mean of 0 could not rise otherwise.
# Without the limit `_LARGEST`, one outlier would widen the intervals for months.
_LARGEST = 8.0
# A residual counts as partly below a quantile and partly above it if its distance from the quantile is
# less than this share of the mean absolute residual.
# Without this range, a rounding error of a forecast could move a residual to a quantile's other side.
# The last bit of a forecast can depend on which other series are stepped in the same call. The offsets of
# the quantiles must not depend on that.
_TIE = 1e-2
# The offsets of a horizon do not change while its mean absolute residual is at most this many scales.
_NO_UNIT = 1e-6
_SLOWER = 0.15  # at horizon h, the offsets' learning rate never falls below ``rate / h**_SLOWER``
# A normal distribution's standard deviation is this many times its mean absolute deviation.
_NORMAL_UNITS = math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class Intervals:
    """Calibrates the quantiles of the combined forecast by quantile tracking (adaptive conformal inference).

    The quantile of level ``q`` is ``offset * unit`` above the combined forecast, where the unit is a running
    mean of absolute residuals. When a window closes, the offset rises by ``rate * q`` if the residual of the
    forecast for this window is above the quantile, and else falls by ``rate * (1 - q)``. So the share of
    actuals below the quantile tends to ``q``, whatever the series does (Gibbs & Candes 2021, "Adaptive
    Conformal Inference"; Angelopoulos et al. 2023, "Conformal PID Control", section 2.1). The offsets of a
    horizon learn from a window once it has closed. Over the first `_TRUSTED` residuals the learned distances
    gradually replace the network's own.

    Attributes:
        levels: Q quantile levels, rising, 0.5 among them.
        horizon: N.
        rate: step of an offset, in units, for a series with many residuals; the first steps are larger.
        halflife: residuals after which the weight of a residual in the unit has halved.
    """

    levels: tuple[float, ...]
    horizon: int
    rate: float = 0.02
    halflife: int = 168
    name: str = "intervals"
    format_version: int = 1
    reads = frozenset({"scale", "residuals", "out.forecast"})
    writes = frozenset({"bands", "out.forecast"})

    def spec(self) -> Mapping[str, Field]:
        """Return the fields of the state: ``offset``, ``unit``, ``known`` and ``issued``.

        At each anchor horizon, ``offset`` holds the quantiles' distances from the median in units, ``unit``
        the mean absolute residual, and ``known`` the number of residuals. ``issued`` holds the issued
        distances of the quantiles from the median until the actuals of their windows are observed.
        """
        anchors = len(anchor_horizons(self.horizon))
        return {
            "offset": Field("float32", (anchors, len(self.levels) - 1)),
            "unit": Field("float64", (anchors,)),
            "known": Field("int32", (anchors,)),
            "issued": Field("float64", (sum(anchor_horizons(self.horizon)), len(self.levels) - 1)),
        }

    def init(self, series: int) -> Arrays:
        """Return the initial arrays; each level's offset is a normal distribution's quantile at that level.

        The distribution has mean 0 and mean absolute deviation 1, because offsets are multiples of the mean
        absolute residual.
        """
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}
        own["issued"][:] = np.nan
        own["offset"][:] = [_NORMAL_UNITS * NormalDist().inv_cdf(q) for q in self._outer]
        return own

    @property
    def _outer(self) -> list[float]:
        return [level for level in self.levels if level != 0.5]

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Move the quantiles of ``out.forecast`` to calibrated distances from the median.

        Also add ``bands`` to the block. The quantiles rise with their levels.
        """
        own = {name: series_last(array) for name, array in own.items()}
        anchors = anchor_horizons(self.horizon)
        outer = [q for q, level in enumerate(self.levels) if level != 0.5]
        out, middle = block.out.forecast, self.levels.index(0.5)
        rows = np.array(anchors) - 1
        # ``network`` holds the distances of the network's quantiles from its median.
        # The axes of ``network`` are quantile, anchor horizon, window and series.
        network = np.stack([(out[q][..., rows] - out[middle][..., rows]).transpose(2, 0, 1) for q in outer])
        learned, trust, bands = self._learned_distances(own, block, network)
        to_horizons = by_horizon(anchors, self.horizon)
        # The axes of ``distance`` are horizon, quantile, window and series.
        distance = np.tensordot(to_horizons, learned, axes=(1, 1))
        if not (trust == 1.0).all():
            # The axes of ``network_distance`` are horizon, quantile, window and series.
            network_distance = (out[outer] - out[middle]).transpose(3, 0, 1, 2)
            distance += np.tensordot(to_horizons, np.float32(1.0) - trust, axes=1)[:, None] * network_distance
        for k, q in enumerate(outer):
            if k:
                np.maximum(distance[:, k], distance[:, k - 1], out=distance[:, k])
            np.add(out[middle], distance[:, k].transpose(1, 2, 0), out=out[q])
        # Where calibrated quantiles have passed the median, move the median: clip it to its two neighbours.
        # A quantile below 0.5 can rise above the median if most of the recent actuals were above the median.
        np.clip(out[middle], *_neighbours(out, middle), out=out[middle])
        own = {name: series_first(array) for name, array in own.items()}
        return own, block.with_fields(bands=bands)

    def _learned_distances(
        self, own: Arrays, block: Block, network: Floats
    ) -> tuple[Floats, Floats32, Floats]:
        """Update each quantile's offset window by window; return its learned distance from the median.

        A distance is negative for a quantile below the median.

        Args:
            own: the component's arrays, changed in place.
            block: with the residuals of each window.
            network: ``[Q - 1, A, T, S]``, the network's own distances.

        Returns:
            The learned part of the distances, ``[Q - 1, A, T, S]``; the weight of the learned part,
            ``[A, T, S]`` from 0 to 1, of which the network's own distances get the rest; and ``bands``, see
            `Block`.
        """
        anchors = anchor_horizons(self.horizon)
        known = ~np.isnan(block.residuals) & block.counts[:, None]
        counts = np.concatenate([own["known"][None], known], dtype=np.int32)
        accumulate_rows(np.add, counts)
        own["known"][:] = counts[-1]
        unit, moves = self._learn_unit(own["unit"], block, known, counts[1:])
        trust = np.minimum(counts[1:] / _TRUSTED, 1.0).astype(np.float32)
        rates = self.rate * np.array(anchors, np.float32)[:, None] ** -_SLOWER
        rates = np.maximum(rates, 1.0 / (counts[:-1] + 20.0)).astype(np.float32)
        # The axes of ``issued`` and ``due`` are window, anchor, quantile and series.
        # ``due[t]`` holds the distance of each quantile from the median, in the forecasts for window ``t``:
        # one forecast per anchor ``a``, issued ``a`` windows earlier.
        issued = (np.float32(1.0) - trust)[:, :, None] * network.transpose(2, 1, 0, 3)
        due, stores = np.empty(issued.shape), _split_by_anchor(own["issued"], anchors)
        for i, (a, store) in enumerate(zip(anchors, stores, strict=True)):
            due[:a, i] = stored_before(store, issued[:a, i], block.start, a)
        steps = _Steps(block.residuals, 2 * _TIE * unit[:-1], rates, moves, unit[1:] * trust)
        learned = self._learn_offsets(own["offset"], steps, issued, due)
        for i, store in enumerate(stores):
            store_forecasts(store, issued[:, i], block.start, block.lengths)
        bands = due[:, scored_places(self.horizon)]
        return learned.transpose(2, 1, 0, 3), trust.transpose(1, 0, 2), bands

    def _learn_unit(self, unit: Floats, block: Block, known: Bools, counts: Ints32) -> tuple[Floats, Bools]:
        """Update ``unit``, the mean absolute residual of each anchor horizon, in place, window by window.

        Args:
            unit: ``[A, S]``, the mean absolute residuals.
            block: with the residuals of each window.
            known: ``[T, A, S]``, whether a residual counts.
            counts: ``[T, A, S]``, the number of residuals after each window.

        Returns:
            The unit before the first window and after each window, ``[T + 1, A, S]``; and whether the offsets
            learn from a residual, ``[T, A, S]``.
        """
        weight = known * np.maximum(1.0 - 0.5 ** (1.0 / self.halflife), 1.0 / np.maximum(counts, 1))
        far, least = np.where(known, np.abs(block.residuals), 0.0), _NO_UNIT * block.scale
        units, has_unit = np.empty((len(far) + 1, *unit.shape)), np.empty(far.shape, bool)
        units[0] = unit
        for t, size in enumerate(far):
            np.greater(unit, least[t], out=has_unit[t])
            np.minimum(size, _LARGEST * unit, out=size, where=has_unit[t])
            size -= unit
            size *= weight[t]
            unit += size
            units[t + 1] = unit
        return units, has_unit & known

    def _learn_offsets(self, offset: Floats32, steps: _Steps, issued: Floats, due: Floats) -> Floats:
        """Update the offsets window by window, in place; return the learned part of each quantile's distance.

        The distance is measured from the median. Its learned part is the offset times ``steps.size``.

        Args:
            offset: ``[A, Q - 1, S]``.
            steps: what the offsets learn from.
            issued: ``[T, A, Q - 1, S]``, the network's part of the distances; the learned part is added.
            due: ``[T, A, Q - 1, S]``, the distances that were issued for each window; rows for which the
                block itself issues distances are filled.

        Returns:
            ``[T, A, Q - 1, S]``.
        """
        anchors, levels = anchor_horizons(self.horizon), np.array(self._outer)[:, None]
        learned = np.empty(issued.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            for t, (residual, tie, rate, moves, size) in enumerate(zip(*steps.by_window(), strict=True)):
                # ``below`` is 1 for a residual below the quantile, 0 for one above it, in between for a
                # close one.
                below = due[t] - residual
                below /= tie
                below += 0.5
                np.maximum(below, 0.0, out=below)
                np.minimum(below, 1.0, out=below)
                step = np.subtract(levels, below, out=below)
                step *= rate
                np.add(offset, step, out=offset, where=moves, casting="same_kind")
                issued[t] += np.multiply(offset, size, out=learned[t])
                after = t + 1
                for i, a in enumerate(anchors):
                    # A distance issued for anchor horizon ``a`` is read ``a`` windows later, not before,
                    # so the distances issued in ``a`` windows are copied to ``due`` in one call.
                    if after % a == 0:
                        later = due[after : after + a, i]
                        later[:] = issued[after - a : after - a + len(later), i]
        return learned


class _Steps(NamedTuple):
    """The arrays that `_learn_offsets` needs to learn the quantiles' offsets, ``[T, A, S]`` each.

    Attributes:
        residual: NaN if missing.
        tie: a residual at a distance of less than half of this from a quantile counts as partly below it.
        rate: the step of the offsets.
        moves: whether the offsets learn.
        size: the factor that turns the offsets into the learned part of the quantiles' distances.
    """

    residual: Floats
    tie: Floats
    rate: Floats32
    moves: Bools
    size: Floats

    def by_window(self) -> Iterator[NDArray[Any]]:
        """Yield each array with a new axis of length 1, for the quantiles: ``[T, A, 1, S]``."""
        return (array[:, :, None] for array in self)


def _split_by_anchor(issued: Floats, anchors: tuple[int, ...]) -> list[Floats]:
    """Split the field ``issued`` into one view for each anchor horizon.

    The view of an anchor ``a`` holds the distances issued in the last ``a`` windows, ``[a, Q - 1, S]``.
    """
    until = np.cumsum(anchors)
    return [issued[stop - a : stop] for a, stop in zip(anchors, until, strict=True)]


def _neighbours(quantiles: Floats, middle: int) -> tuple[Floats | None, Floats | None]:
    """Return the forecasts at the next lower and next higher level than the median; None for a missing one.

    ``quantiles`` has one forecast array for each level, and ``middle`` is the position of the median.
    """
    below = quantiles[middle - 1] if middle else None
    return below, quantiles[middle + 1] if middle + 1 < len(quantiles) else None
