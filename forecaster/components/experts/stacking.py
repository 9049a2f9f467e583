"""Combination of the members' forecasts, with weights per series and horizon learned from actuals.

The members are the network and the experts. An anchor horizon is one whose forecasts are stored until their
actuals are observed; weights are learned at anchors and interpolated between them.

Letters: T windows, S series, N horizon, M members, A anchors, P pairs of members (each with itself, too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from forecaster.arrays import Arrays, Floats32
from forecaster.components.anchors import anchor_horizons, by_horizon
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.components.delay_line import store_forecasts, stored_before

# This number, in squared scales, is the least ridge penalty.
# It is also added to the decaying sum of each member's squared errors.
# Without `_LEAST_RIDGE`, the weights would change fast as long as all changes from the last value are near 0.
_LEAST_RIDGE = 0.05
# Forecasts and actuals are clipped to this many scales, so that float32 can hold their squares.
_LARGEST = 1e9


@dataclass(frozen=True)
class Stacking:
    """Combines the members' forecasts with weights learned online, for each series and anchor horizon.

    The method is ridge stacking (Breiman 1996, "Stacked Regressions"). The members' forecasts and the actuals
    are changes from the last value at the issue time, in scales at that time. The weights solve a
    least-squares problem that forgets. They are shrunk towards the weights of Bates & Granger (1969, "The
    Combination of Forecasts"), a power of the inverse of each member's own mean squared error. If the members
    are equally good, these weights give the members' mean, which is hard to beat; if one member is far
    better, they give that member's forecast. A combined forecast lies between the smallest and the largest
    forecast of its members. The weights of a horizon learn from a window once the window has closed, never
    before.

    A young series forgets faster, in proportion to its age: the first forecasts of a network with a partly
    filled ring, and of a regression that had learned nothing, do not show how good they are later.

    Attributes:
        experts: names of the members beside the network; if there are none, the network's forecast is used.
        horizon: N.
        middle: the index of the median among the network's quantiles.
        forget: the share of the past sums that is kept with each actual, at most.
        young: after ``n`` values, ``n / (n + young)`` of the past is kept if that is less; an actual then
            weighs as the ``young``-th power of the number of values when it was observed.
        shrink: strength of the shrinkage, as a share of the members' mean square.
        power: exponent of the inverse errors.
        clip: a forecast or actual change of more scales than this gets a weight below 1, which limits its
            influence to that of a change of ``clip`` scales.
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
    writes = frozenset({"residuals", "out.forecast", "out.network", "out.members"})

    @property
    def reads(self) -> frozenset[str]:
        """The names of the block's fields that `step` reads and another component fills."""
        members = (f"members.{name}" for name in self.experts)
        return frozenset({"last", "scale", "moves", "observed", "out.forecast", *members})

    def spec(self) -> Mapping[str, Field]:
        """Return the fields: sums for the weights, and forecasts stored with their last values and scales."""
        anchors, members = anchor_horizons(self.horizon), len(self.experts) + 1
        return {
            "squares": Field("float32", (len(anchors), members * (members + 1) // 2)),
            # In the field ``products``, the last column holds a decaying weighted sum of squared actuals.
            # Here an actual is a change from the last value, in scales.
            "products": Field("float32", (len(anchors), members + 1)),
            # In the field ``waiting`` (stored forecasts), the last column holds the combined forecasts.
            "waiting": Field("float32", (sum(anchors), members + 1)),
            "issued": Field("float64", (self.horizon, 2)),
        }

    def init(self, series: int) -> Arrays:
        """Return the initial arrays: no weights are learned yet, and no forecasts are stored."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}
        own["waiting"][:], own["issued"][:] = np.nan, np.nan
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Shift all quantiles of each horizon equally, so that the median is the combined forecast.

        The quantiles are in ``out.forecast``. Also add ``residuals`` to the block.
        """
        own = {name: series_last(array) for name, array in own.items()}
        out, anchors = block.out.forecast, anchor_horizons(self.horizon)
        changes = self._changes(block)
        _copy_members(block, changes)
        # Store NaN as the scale of a constant series: no weight may learn from its changes, which are noise.
        # The axes of ``issued`` are window, quantity (last value or scale) and series.
        issued = np.stack([block.last, np.where(block.moves, block.scale, np.nan)], axis=1)
        origins = [stored_before(own["issued"], issued, block.start, a) for a in anchors]
        # The axes of ``actual`` are window, anchor and series.
        actual = np.stack([(block.values - o[:, 0]) / o[:, 1] for o in origins], axis=1)
        actual = np.clip(actual, -_LARGEST, _LARGEST)
        # The axes of ``anchor_forecasts`` are anchor, member, window and series.
        anchor_forecasts = np.stack([_at_anchors(change, anchors) for change in changes], axis=1)
        combined = changes[0]
        if self.experts:
            weights = self._weights(own, actual.astype(np.float32), anchor_forecasts, block)
            combined = self._combined(weights, changes, block)
            shift = (combined - changes[0]).transpose(1, 2, 0).copy()
            out += block.scale[..., None] * shift
        with_combined = np.concatenate([anchor_forecasts, _at_anchors(combined, anchors)[:, None]], axis=1)
        stores = self._stores(own, with_combined)
        before = [stored_before(store, new, block.start, a)[:, -1] for a, store, new in stores]
        residuals = [(actual[:, i] - b) * origins[i][:, 1] for i, b in enumerate(before)]
        for _, store, new in stores:
            store_forecasts(store, new, block.start, block.lengths)
        store_forecasts(own["issued"], issued, block.start, block.lengths)
        own = {name: series_first(array) for name, array in own.items()}
        return own, block.with_fields(residuals=np.stack(residuals, axis=1))

    def _changes(self, block: Block) -> list[Floats32]:
        """Return the members' forecasts as changes from the last value, in scales.

        The network's forecast is the first. Each forecast is ``[N, T, S]``.
        """
        median = block.out.forecast[self.middle]
        network = ((median - block.last[..., None]) / block.scale[..., None]).transpose(2, 0, 1)
        np.clip(network, -_LARGEST, _LARGEST, out=network)
        # Copy the network's forecasts to C order, the order of the experts' forecasts, for fast arithmetic.
        return [network.astype(np.float32, order="C"), *(block.members[name] for name in self.experts)]

    def _combined(self, weights: Floats32, changes: Sequence[Floats32], block: Block) -> Floats32:
        """Return the combined forecast: a weighted sum, clipped to the range of the members' forecasts.

        For a constant series, it is the last value instead. The result is ``[N, T, S]``, changes from the
        last value in scales.
        """
        to_horizons = by_horizon(anchor_horizons(self.horizon), self.horizon)
        combined = np.zeros_like(changes[0])
        for weight, change in zip(weights, changes, strict=True):
            part = np.tensordot(to_horizons, weight, axes=1)
            combined += np.multiply(part, change, out=part)
        _clip_to_members(combined, changes)
        # Forecast no change for a series that counts as constant, unless it has only one value so far.
        combined *= block.moves | (block.observed == 1)
        return combined

    def _stores(self, own: Arrays, forecasts: Floats32) -> list[tuple[int, Floats32, Floats32]]:
        """Return, for each anchor horizon, the horizon, the array of stored forecasts, and the new forecasts.

        An anchor of ``a`` windows has a store ``[a, M or M + 1, S]``; the new forecasts are ``[T, M or M + 1,
        S]``.
        """
        anchors, members = anchor_horizons(self.horizon), forecasts.shape[1]
        until = np.cumsum(anchors)
        return [
            (a, own["waiting"][stop - a : stop, :members], forecasts[i].swapaxes(0, 1))
            for i, (a, stop) in enumerate(zip(anchors, until, strict=True))
        ]

    def _weights(self, own: Arrays, actual: Floats32, forecasts: Floats32, block: Block) -> Floats32:
        """Learn from the actuals window by window; return the members' weights after each window.

        Args:
            own: the component's arrays; the sums are changed.
            actual: ``[T, A, S]`` float32, NaN if missing.
            forecasts: ``[A, M, T, S]`` float32, the members' forecasts in the block.
            block: the windows.

        Returns:
            ``[M, A, T, S]`` float32.
        """
        before = [stored_before(w, n, block.start, a) for a, w, n in self._stores(own, forecasts)]
        # The axes of ``past_forecasts`` are window, member, anchor and series.
        past_forecasts = np.stack(before, axis=2)
        known = ~np.isnan(actual) & ~np.isnan(past_forecasts[:, 0]) & block.counts[:, None]
        actual, past_forecasts = np.where(known, actual, 0), np.where(known[:, None], past_forecasts, 0)
        largest = np.maximum(np.abs(actual), np.abs(past_forecasts).max(axis=1))
        share = np.square(np.float32(self.clip) / np.maximum(largest, np.float32(self.clip)))
        observed = block.observed[:, None].astype(np.float32)
        kept = np.minimum(np.float32(self.forget), observed / (observed + np.float32(self.young)))
        kept = np.where(known, kept, np.float32(1.0))
        squares, products = _running_sums(own, _KnownActuals(past_forecasts, actual, share, kept))
        own["squares"] = squares[:, -1].swapaxes(0, 1).copy()
        own["products"] = products[:, -1].swapaxes(0, 1).copy()
        return _ridge(squares, products, self.shrink, self.power).swapaxes(1, 2)


class _KnownActuals(NamedTuple):
    """A block's actuals and the forecasts issued for them; if one of them is missing, both are 0.

    Attributes:
        forecasts: ``[T, M, A, S]`` float32, changes in scales.
        actual: ``[T, A, S]`` float32, the actual changes in scales.
        share: ``[T, A, S]`` float32, the weight that limits the influence of a large change.
        kept: ``[T, A, S]`` float32, the share of the past sums that is kept.
    """

    forecasts: Floats32
    actual: Floats32
    share: Floats32
    kept: Floats32


def _running_sums(own: Arrays, new: _KnownActuals) -> tuple[Floats32, Floats32]:
    """Return, after each window, the decaying sums from which `_ridge` computes the members' weights.

    They are sums of products of members' forecasts with each other and with the actual, and of the squared
    actual.

    Args:
        own: the arrays of `Stacking`, with the sums before the block; not changed.
        new: the actuals and forecasts to add.

    Returns:
        The sums ``squares`` ``[P, T, A, S]`` and ``products`` ``[M + 1, T, A, S]`` of `_ridge`.
    """
    # Compute the products of all windows first, because few calls of NumPy on large arrays cost less than
    # many calls on small ones. Only the decaying sums need a loop over the windows.
    weighted = new.forecasts * new.share[:, None]
    members = range(new.forecasts.shape[1])
    pairs = [(i, j) for i in members for j in range(i + 1)]
    before = np.concatenate([own[name].swapaxes(0, 1) for name in ("squares", "products")])
    sums = np.empty((len(before), *new.actual.shape), np.float32)
    squares, products = sums[: len(pairs)], sums[len(pairs) :]
    for square, (i, j) in zip(squares, pairs, strict=True):
        np.multiply(weighted[:, i], new.forecasts[:, j], out=square)
    for i in members:
        np.multiply(weighted[:, i], new.actual, out=products[i])
    products[-1] = new.share * new.actual * new.actual
    for t, kept in enumerate(new.kept):
        before *= kept
        before += sums[:, t]
        sums[:, t] = before
    return squares, products


def _ridge(squares: Floats32, products: Floats32, shrink: float, power: float) -> Floats32:
    """Return the members' weights; each window, anchor horizon and series has its own ridge regression.

    The weights are ``[M, ...]``. The regressions are solved by Cholesky's method.

    Args:
        squares: ``[P, ...]``, sums of products of two members' forecasts.
        products: ``[M + 1, ...]``, sums of products of a member's forecast and the actual; last, the actual
            squared.
        shrink: see `Stacking`.
        power: see `Stacking`.
    """
    members = len(products) - 1
    pairs = {(i, j): i * (i + 1) // 2 + j for i in range(members) for j in range(i + 1)}
    ridge = sum(squares[pairs[i, i]] for i in range(members)) * np.float32(shrink / members)
    ridge = np.maximum(ridge, np.float32(_LEAST_RIDGE))
    error = np.stack([squares[pairs[i, i]] - 2 * products[i] + products[-1] for i in range(members)])
    error = np.maximum(error, products[-1] * np.float32(1e-4)) + np.float32(_LEAST_RIDGE)
    # Without the division by the smallest error, all powers could underflow to 0, and their sum would be 0.
    first = (error / error.min(axis=0)) ** np.float32(-power)
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


def _at_anchors(change: Floats32, anchors: tuple[int, ...]) -> Floats32:
    """Return a forecast at the anchor horizons only, clipped to `_LARGEST` scales from the last value.

    ``change`` is ``[N, T, S]``, in scales from the last value; the result is ``[A, T, S]``.
    """
    limited: Floats32 = np.clip(change[np.array(anchors) - 1], -_LARGEST, _LARGEST)
    return limited


def _clip_to_members(combined: Floats32, changes: Sequence[Floats32]) -> None:
    """Clip a combined forecast in place to the range of the members' forecasts.

    Similar members can have large weights of opposite signs, which would take it far outside this range.
    """
    low, high = changes[0].copy(), changes[0].copy()
    for change in changes[1:]:
        np.minimum(low, change, out=low)
        np.maximum(high, change, out=high)
    np.clip(combined, low, high, out=combined)


def _copy_members(block: Block, changes: Sequence[Floats32]) -> None:
    """Fill ``members`` and ``network`` of ``block.out``; do nothing if ``block.out.members`` is empty."""
    if len(block.out.members):
        block.out.network[:] = block.out.forecast
        for row, change in zip(block.out.members, changes, strict=True):
            row[:] = (block.last + block.scale * change).transpose(1, 2, 0)
