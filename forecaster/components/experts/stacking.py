"""How much each member's forecast counts: weights per series and horizon, learned as the truth comes in.

Letters: T windows, S series, N horizon, M members, A anchors, P pairs of members (each with itself, too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from forecaster.arrays import Arrays, Floats32
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.delay_line import said_before, say

_LEAST_RIDGE = 0.05  # scales squared: members that say next to nothing need more than a few truths
_LARGEST = 1e9  # scales; its square is a float32
_ANCHORS = (1, 2, 4, 8, 16, 24, 48, 96, 192, 384, 768)


def anchors_of(horizon: int) -> tuple[int, ...]:
    """Horizons whose forecasts are kept until their truth comes; those between them are interpolated."""
    return (*(a for a in _ANCHORS if a < horizon), horizon)


@lru_cache(maxsize=16)
def by_horizon(anchors: tuple[int, ...], horizon: int) -> Floats32:
    """``[N, A]`` how numbers by anchor become numbers by horizon: linear in the logarithm of the horizon."""
    ahead, at = np.log(np.arange(1, horizon + 1)), np.log(anchors)
    one = [np.interp(ahead, at, row) for row in np.eye(len(anchors))]
    return np.stack(one, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Stacking:
    """Online ridge stacking, per series and anchor horizon (Breiman 1996, "Stacked Regressions").

    Members' forecasts and the truth are changes from the last value at issue, in scales of that moment. The
    weights solve a least squares that forgets, shrunk towards those of Bates & Granger (1969, "The
    Combination of Forecasts"), which go with a power of the inverse of each member's own mean squared error:
    where members are as good as one another that is the mean of them, which is hard to beat, and where one is
    far better it is that one. A combination lies between its members. The weights of a horizon change once
    the window that it is about has closed, never before.

    A young series forgets faster, in proportion to its age: a network whose ring was not full yet, and a
    regression that had learned nothing, were not what they are now.

    Attributes:
        experts: names of the members beside the network; where there are none, the network is all.
        horizon: N.
        middle: which of the network's quantiles is the median.
        forget: what is kept of the past with each truth, at most.
        young: of ``n`` values ``n / (n + young)`` is kept where that is less; truths then weigh as the
            ``young``-th power of the age at which they came.
        shrink: how strongly, as a share of the members' mean square.
        power: of the inverse errors.
        clip: a change of more scales than this counts less, as if it were just this large.
    """

    experts: tuple[str, ...]
    horizon: int
    middle: int
    forget: float = 0.9998
    young: float = 2.0
    shrink: float = 30.0
    clip: float = 30.0
    power: float = 8.0
    name: str = "stacking"
    format_version: int = 2

    def spec(self) -> Mapping[str, Field]:
        """Sums of squares and products, what waits for its truth, and what it is a change from."""
        anchors, members = anchors_of(self.horizon), len(self.experts) + 1
        return {
            "squares": Field("float32", (len(anchors), members * (members + 1) // 2)),
            "products": Field("float32", (len(anchors), members + 1)),  # the last is the truth's with itself
            "waiting": Field("float32", (sum(anchors), members + 1)),  # the last is the combined one
            "issued": Field("float64", (self.horizon, 2)),
        }

    def init(self, series: int) -> Arrays:
        """Nothing learned, nothing waiting."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}
        own["waiting"][:], own["issued"][:] = np.nan, np.nan
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Moves the whole of ``out.forecast`` so that its median is the combined one; adds ``residuals``."""
        own = {name: series_last(array) for name, array in own.items()}
        out, anchors = block.out.forecast, anchors_of(self.horizon)
        rows = np.array(anchors) - 1
        network = np.moveaxis((out[self.middle] - block.last[..., None]) / block.scale[..., None], 2, 0)
        np.clip(network, -_LARGEST, _LARGEST, out=network)
        # In the order of the members in memory, as all that is computed with them.
        changes = [network.astype(np.float32, order="C"), *(block.members[name] for name in self.experts)]
        _keep(block, changes)
        # What a change of a series that stands still is in scales of it says nothing: nobody learns from it.
        issued = np.stack([block.last, np.where(block.moves, block.scale, np.nan)], axis=1)  # [T, 2, S]
        origin = [said_before(own["issued"], issued, block.start, a) for a in anchors]
        truth = np.stack([(block.values - o[:, 0]) / o[:, 1] for o in origin], axis=1)  # [T, A, S]
        truth = np.clip(truth, -_LARGEST, _LARGEST)
        said = np.stack([change[rows] for change in changes], axis=1)  # [A, M, T, S]
        np.clip(said, -_LARGEST, _LARGEST, out=said)
        combined = changes[0]
        if self.experts:
            weights = self._weights(own, truth.astype(np.float32), said, block)  # [M, A, T, S]
            spread = by_horizon(anchors, self.horizon)
            combined = np.zeros_like(combined)
            for weight, change in zip(weights, changes, strict=True):
                part = np.tensordot(spread, weight, axes=1)
                combined += np.multiply(part, change, out=part)
            _within(combined, changes)
            # A series that stands still, of more than one value, is forecast as its last one.
            combined *= block.moves | (block.observed == 1)
            moved = np.moveaxis(combined - changes[0], 0, 2).copy()
            out += block.scale[..., None] * moved
        ends = np.concatenate([said, np.clip(combined[rows], -_LARGEST, _LARGEST)[:, None]], axis=1)
        before = [said_before(w, n, block.start, a)[:, -1] for a, w, n in self._waiting(own, ends)]
        residuals = np.stack([(truth[:, i] - b) * origin[i][:, 1] for i, b in enumerate(before)], axis=1)
        for _, store, new in self._waiting(own, ends):
            say(store, new, block.start, block.lengths)
        say(own["issued"], issued, block.start, block.lengths)
        own = {name: series_first(array) for name, array in own.items()}
        return own, replace(block, residuals=residuals)

    def _waiting(self, own: Arrays, said: Floats32) -> list[tuple[int, Floats32, Floats32]]:
        """Of each anchor: its windows, where forecasts wait ``[a, M or more, S]``, new ones ``[T, ..]``."""
        anchors, members = anchors_of(self.horizon), said.shape[1]
        until = np.cumsum(anchors)
        return [
            (a, own["waiting"][stop - a : stop, :members], np.moveaxis(said[i], 1, 0))
            for i, (a, stop) in enumerate(zip(anchors, until, strict=True))
        ]

    def _weights(self, own: Arrays, truth: Floats32, said: Floats32, block: Block) -> Floats32:
        """``[M, A, T, S]``: learns the truth ``[T, A, S]`` of what was said, window by window."""
        before = [said_before(w, n, block.start, a) for a, w, n in self._waiting(own, said)]
        told = np.stack(before, axis=2)  # [T, M, A, S]
        known = ~np.isnan(truth) & ~np.isnan(told[:, 0])
        if block.lengths is not None:
            known &= (np.arange(len(truth))[:, None] < block.lengths)[:, None]
        truth, told = np.where(known, truth, 0), np.where(known[:, None], told, 0)
        largest = np.maximum(np.abs(truth), np.abs(told).max(axis=1))
        share = np.square(np.float32(self.clip) / np.maximum(largest, np.float32(self.clip)))
        weighted = told * share[:, None]
        observed = block.observed[:, None].astype(np.float32)
        kept = np.minimum(np.float32(self.forget), observed / (observed + np.float32(self.young)))
        kept = np.where(known, kept, np.float32(1.0))
        members = range(told.shape[1])
        pairs = [(i, j) for i in members for j in range(i + 1)]
        squares = np.empty((len(pairs), *truth.shape), np.float32)
        products = np.empty((len(members) + 1, *truth.shape), np.float32)
        last = np.moveaxis(own["squares"], 1, 0), np.moveaxis(own["products"], 1, 0)
        for t in range(len(truth)):
            for p, (i, j) in enumerate(pairs):
                squares[p, t] = last[0][p] * kept[t] + weighted[t, i] * told[t, j]
            for i in members:
                products[i, t] = last[1][i] * kept[t] + weighted[t, i] * truth[t]
            products[-1, t] = last[1][-1] * kept[t] + share[t] * truth[t] * truth[t]
            last = squares[:, t], products[:, t]
        own["squares"], own["products"] = (np.moveaxis(array, 0, 1).copy() for array in last)
        return np.moveaxis(_ridge(squares, products, self.shrink, self.power), 2, 1)


def _ridge(squares: Floats32, products: Floats32, shrink: float, power: float) -> Floats32:
    """Weights ``[M, ...]`` of squares ``[P, ...]`` and products ``[M, ...]``: Cholesky, all side by side."""
    members = len(products) - 1
    pairs = {(i, j): i * (i + 1) // 2 + j for i in range(members) for j in range(i + 1)}
    ridge = sum(squares[pairs[i, i]] for i in range(members)) * np.float32(shrink / members)
    ridge = np.maximum(ridge, np.float32(_LEAST_RIDGE))
    error = np.stack([squares[pairs[i, i]] - 2 * products[i] + products[-1] for i in range(members)])
    error = np.maximum(error, products[-1] * np.float32(1e-4)) + np.float32(_LEAST_RIDGE)
    first = (error / error.min(axis=0)) ** np.float32(-power)  # the best one's is 1: they may not all be lost
    first /= first.sum(axis=0)
    right = [product + ridge * share for product, share in zip(products, first, strict=False)]
    lower: dict[tuple[int, int], Floats32] = {}
    for (i, j), pair in pairs.items():
        rest = squares[pair] + (ridge if i == j else np.float32(0))
        for k in range(j):
            rest -= lower[i, k] * lower[j, k]
        lower[i, j] = np.sqrt(np.maximum(rest, ridge * np.float32(1e-3))) if i == j else rest / lower[j, j]
    for i in range(members):
        for k in range(i):
            right[i] = right[i] - lower[i, k] * right[k]
        right[i] = right[i] / lower[i, i]
    for i in reversed(range(members)):
        for k in range(i + 1, members):
            right[i] = right[i] - lower[k, i] * right[k]
        right[i] = right[i] / lower[i, i]
    return np.stack(right)


def _within(combined: Floats32, changes: Sequence[Floats32]) -> None:
    """Keeps a combination between its members: two that agree can get large weights of either sign."""
    low, high = changes[0].copy(), changes[0].copy()
    for change in changes[1:]:
        np.minimum(low, change, out=low)
        np.maximum(high, change, out=high)
    np.clip(combined, low, high, out=combined)


def _keep(block: Block, changes: Sequence[Floats32]) -> None:
    """What members and the network alone say, where somebody asks."""
    if len(block.out.members):
        block.out.network[:] = block.out.forecast
        for row, change in zip(block.out.members, changes, strict=True):
            row[:] = np.moveaxis(block.last + block.scale * change, 0, 2)
