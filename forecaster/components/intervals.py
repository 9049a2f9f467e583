"""Intervals that keep their promise: quantiles set, per series and horizon, by how far off forecasts were.

Letters: T windows, S series, N horizon, Q quantiles, A anchors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Floats32
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.delay_line import said_before, say
from forecaster.components.experts.stacking import anchors_of, by_horizon

_TRUSTED = 40  # residuals after which the network's own distances no longer count
_LARGEST = (
    8.0  # units that one residual counts as at the most: an outlier of a thousand would stay for months
)
_TIE = 1e-2  # of the unit: a residual so near to a quantile lies on both sides of it. Ties would else be
# decided by the last bit of a forecast, which depends on how many series are stepped in one call.
_NO_UNIT = 1e-6  # of the series' scale: what does not move has no quantiles to learn
_SLOWER = 0.15  # power of the horizon by which farther offsets move slower: their residuals overlap
_NORMAL_UNITS = math.sqrt(math.pi / 2)  # standard deviations in a mean absolute deviation


@dataclass(frozen=True)
class Intervals:
    """Adaptive conformal quantiles by quantile tracking, on top of the network's own.

    A quantile of level ``q`` lies ``offset * unit`` from the combined forecast, where the unit is a running
    mean of absolute residuals. When a window closes, the offset rises by ``rate * q`` if the residual of the
    forecast that was about it lies above, else falls by ``rate * (1 - q)``: the share of values below then
    comes to ``q``, whatever the series does (Gibbs & Candes 2021, "Adaptive Conformal Inference";
    Angelopoulos et al. 2023, "Conformal PID Control", section 2.1). The offsets of a horizon learn from a
    window once it has closed. Until `_TRUSTED` residuals have come, the network's own distances count, less
    and less.

    Attributes:
        levels: Q quantile levels, rising, 0.5 among them.
        horizon: N.
        rate: of an offset, in units, once a series is known; it begins faster.
        halflife: residuals after which half of the unit is forgotten.
    """

    levels: tuple[float, ...]
    horizon: int
    rate: float = 0.02
    halflife: int = 168
    name: str = "intervals"
    format_version: int = 1

    def spec(self) -> Mapping[str, Field]:
        """Offsets of every level but the median's, their unit, and how many residuals have come."""
        anchors = len(anchors_of(self.horizon))
        return {
            "offset": Field("float32", (anchors, len(self.levels) - 1)),
            "unit": Field("float64", (anchors,)),
            "known": Field("int32", (anchors,)),
            "issued": Field("float64", (sum(anchors_of(self.horizon)), len(self.levels) - 1)),
        }

    def init(self, series: int) -> Arrays:
        """The offsets of a normal distribution's quantiles in mean absolute deviations."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}
        own["issued"][:] = np.nan
        own["offset"][:] = [_NORMAL_UNITS * NormalDist().inv_cdf(q) for q in self._outer]
        return own

    @property
    def _outer(self) -> list[float]:
        return [level for level in self.levels if level != 0.5]

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Sets every quantile of ``out.forecast`` around the median; they never cross."""
        own = {name: series_last(array) for name, array in own.items()}
        anchors, outer = anchors_of(self.horizon), [q for q, level in enumerate(self.levels) if level != 0.5]
        out, middle = block.out.forecast, self.levels.index(0.5)
        rows = np.array(anchors) - 1
        # [Q - 1, A, T, S]
        network = np.stack([np.moveaxis(out[q][..., rows] - out[middle][..., rows], 2, 0) for q in outer])
        learned, trust = self._distances(own, block, network)
        spread = by_horizon(anchors, self.horizon)
        far = np.tensordot(spread, learned, axes=(1, 1))  # [N, Q - 1, T, S]
        if not (trust == 1.0).all():
            whole = np.moveaxis(out[outer] - out[middle], 3, 0)  # [N, Q - 1, T, S]
            far += np.tensordot(spread, np.float32(1.0) - trust, axes=1)[:, None] * whole
        for k, q in enumerate(outer):
            if k:
                np.maximum(far[:, k], far[:, k - 1], out=far[:, k])
            np.add(out[middle], np.moveaxis(far[:, k], 0, 2), out=out[q])
        # A forecast that nearly all values lie on one side of goes to where they are.
        np.clip(out[middle], *_neighbours(out, middle), out=out[middle])
        return {name: series_first(array) for name, array in own.items()}, block

    def _distances(self, own: Arrays, block: Block, network: Floats) -> tuple[Floats, Floats32]:
        """What was learned, window by window.

        Args:
            own: changed.
            block: for its residuals.
            network: ``[Q - 1, A, T, S]``, the network's own distances.

        Returns:
            Distances ``[Q - 1, A, T, S]`` of quantiles from the median as far as they are learned, and how
            far that is, ``[A, T, S]`` from 0 to 1.
        """
        anchors, windows = anchors_of(self.horizon), len(block.values)
        rates = self.rate * np.array(anchors, np.float32)[:, None] ** -_SLOWER
        learned = np.empty(network.shape)
        trust = np.empty(network.shape[1:], np.float32)
        served = np.moveaxis(np.empty(network.shape), 0, 2)  # [A, T, Q - 1, S]
        until = np.cumsum(anchors)
        stores = [own["issued"][stop - a : stop] for a, stop in zip(anchors, until, strict=True)]
        before = [
            said_before(store, new[: min(a, windows)], block.start, a)
            for a, store, new in zip(anchors, stores, served, strict=True)
        ]
        for t, residual in enumerate(block.residuals):
            band = [served[i, t - a] if t >= a else before[i][t] for i, a in enumerate(anchors)]
            self._learn(own, residual, np.stack(band), block.scale[t], rates, block.counts(t))
            trust[:, t] = np.minimum(own["known"] / _TRUSTED, 1.0)
            learned[:, :, t] = np.moveaxis(own["offset"], 1, 0) * (own["unit"] * trust[:, t])
            served[:, t] = np.moveaxis(learned[:, :, t] + (1.0 - trust[:, t]) * network[:, :, t], 0, 1)
        for store, new in zip(stores, served, strict=True):
            say(store, new, block.start, block.lengths)
        return learned, trust

    def _learn(
        self,
        own: Arrays,
        residual: Floats,
        band: Floats,
        scale: Floats,
        rates: Floats32,
        counts: Bools | None,
    ) -> None:
        """Takes the residuals ``[A, S]`` of a window, and where quantiles ``[A, Q - 1, S]`` lay."""
        known = ~np.isnan(residual) if counts is None else ~np.isnan(residual) & counts
        far, unit = np.abs(residual), own["unit"]
        moves = known & (unit > _NO_UNIT * scale)
        rate = np.maximum(rates, 1.0 / (own["known"] + 20.0)).astype(np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):
            over = (band - residual[:, None]) / (2 * _TIE * unit[:, None])
        below = np.clip(over + 0.5, 0.0, 1.0)  # whether the residual lies below each quantile
        for k, level in enumerate(self._outer):
            own["offset"][:, k] += np.where(moves, rate * (level - below[:, k]), 0)
        own["known"] += known
        weight = np.maximum(1.0 - 0.5 ** (1.0 / self.halflife), 1.0 / np.maximum(own["known"], 1))
        far = np.where(unit > _NO_UNIT * scale, np.minimum(far, _LARGEST * unit), far)
        unit += np.where(known, weight * (far - unit), 0.0)


def _neighbours(quantiles: Floats, middle: int) -> tuple[Floats | None, Floats | None]:
    """The quantiles next to the middle one, below and above; None where there is none."""
    below = quantiles[middle - 1] if middle else None
    return below, quantiles[middle + 1] if middle + 1 < len(quantiles) else None
