"""An expert that regresses each series on its own past, and goes on learning: recursive least squares.

Letters: S series, M past windows, N horizon, L lags, E running means, D = L + E regressors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints
from forecaster.components.base import Field
from forecaster.components.experts.base import Expert, Seen, in_scales
from forecaster.components.network.ridge import OTHER_LEVEL, distances, near_in_place

_CLIP = 50.0  # scales of a regressor
_LARGEST_WEIGHT = 3.0
_NOW = np.array([0])
_AT_ONCE = 16  # windows, so that what is made on the way stays in the cache
_ROOM = 2.0  # a forecast stays within so many times the distances that its lags lie from the last value


@dataclass(frozen=True)
class LeastSquares(Expert):
    """Autoregression of changes, per series, by recursive least squares with forgetting.

    The change from one window to the next is regressed on how far lagged values, and running means, lie from
    the window before: no level enters. Horizons are forecast one after the other, each from those before it.
    Haykin, "Adaptive Filter Theory", table 9.1, in scales of the series; what is forgotten is held while the
    inverse is as large as it began, so that a series that stands still for long does not wind it up.

    Attributes:
        label: name of the member.
        horizon: N.
        lags: windows before the last that are regressors.
        halflives: of the running means that are.
        season: whether the season's shape is taken out of values first and put back in the end.
        forget: what is kept of the past with each value.
        prior: inverse of the variance that weights have at first.
    """

    label: str
    horizon: int
    lags: tuple[int, ...]
    halflives: tuple[float, ...] = ()
    season: bool = False
    forget: float = 0.9998
    prior: float = 50.0
    format_version = 2

    @property
    def name(self) -> str:
        """See `Expert`."""
        return self.label

    @property
    def reach(self) -> int:
        """The longest lag and the window that it lags behind."""
        return max(self.lags) + 1

    @property
    def _size(self) -> int:
        return len(self.lags) + len(self.halflives)

    @property
    def recalled(self) -> tuple[str, ...]:
        """See `Expert`."""
        return ("weights", "means") if self.halflives else ("weights",)

    def spec(self) -> Mapping[str, Field]:
        """Weights, the inverse of the regressors' second moments, running means, and how much was seen."""
        fields = {
            "weights": Field("float32", (self._size,)),
            "inverse": Field("float32", (self._size, self._size)),
            "known": Field("int32"),
        }
        return fields | ({"means": Field("float64", (len(self.halflives),))} if self.halflives else {})

    def init(self, series: int) -> Arrays:
        """Weights of 0: the last value, with the season's shape."""
        own = super().init(series)
        own["inverse"][:] = np.eye(self._size) / self.prior
        return own

    def learn(self, own: Arrays, seen: Seen, counts: Bools) -> None:
        """See `Expert`; a window whose value or that before is missing teaches nothing."""
        there = ~np.isnan(seen.value) & counts
        back = np.array((*self.lags, 0)) + 1
        lagged = self._without_shape(seen, seen.back(back), back)
        before = lagged[-1]
        now = self._without_shape(seen, seen.value[None], _NOW)[0]
        far = _near(lagged[:-1], before, seen.scale)
        if self.halflives:
            far = np.concatenate([far, in_scales(own["means"] - before, seen.scale)])
        change = now - before
        learns = there & seen.moves & ~np.isnan(change) & (own["known"] > self.reach)
        with np.errstate(invalid="ignore"):
            x = np.where(learns, np.clip(far, -_CLIP, _CLIP), np.float32(0.0))
            target = np.where(learns, np.clip(change / seen.scale, -_CLIP, _CLIP), 0.0).astype(np.float32)
        self._update(own["weights"], own["inverse"], x, target, learns)
        own["known"] += there
        for k, halflife in enumerate(self.halflives):
            rate = np.maximum(1.0 - 0.5 ** (1.0 / halflife), 1.0 / np.maximum(own["known"], 1))
            own["means"][k] += np.where(there, rate * (now - own["means"][k]), 0.0)

    def _update(
        self, weights: Floats32, inverse: Floats32, x: Floats32, target: Floats32, learns: Bools
    ) -> None:
        """One step of recursive least squares for the series that learn; ``x`` ``[D, S]``."""
        gain = np.einsum("ijs,js->is", inverse, x)
        size = np.einsum("is,is->s", gain, x)
        error = target - np.einsum("is,is->s", weights, x)
        # In single precision the inverse can lose its sign: it begins anew then.
        lost = ~(size >= 0) & learns
        if lost.any():
            inverse[:, :, lost] = (np.eye(len(x), dtype=np.float32) / self.prior)[:, :, None]
            gain[:, lost], size[lost] = 0, 0
        size += np.float32(self.forget)
        weights += gain / size * error
        np.clip(weights, -_LARGEST_WEIGHT, _LARGEST_WEIGHT, out=weights)
        # The product of a number of this with another is the same bit by bit either way round, so the inverse
        # stays symmetric. An asymmetry would grow with every forgetting until the inverse loses its sign.
        gain /= np.sqrt(size)
        trace = sum(inverse[i, i] - gain[i] * gain[i] for i in range(len(x)))
        forgets = learns & (trace < len(x) / self.prior)
        grows = np.where(forgets, np.float32(1.0 / self.forget), np.float32(1.0))
        product = np.empty_like(gain)
        for row, share in zip(inverse, gain, strict=True):  # each once through the cache
            row -= np.multiply(share, gain, out=product)
            row *= grows

    def forecast(self, own: Arrays, seen: Seen) -> Floats32:
        """See `Expert`."""
        now = self._without_shape(seen, seen.last[None], seen.age[None])[0]
        longest = max(self.lags)
        # All in scales from the last value: what is small against a level is not lost in single precision.
        values = np.zeros((longest + 1 + self.horizon, *now.shape), np.float32)
        for back in self._looked_at:
            past = self._without_shape(seen, seen.back(back), back)
            values[longest - back[0] : longest - back[-1] + 1] = _near(past, now, seen.scale)
        lags = np.array(self.lags)
        room = _ROOM * np.abs(values[longest - lags]).max(axis=0) + np.float32(1.0)
        means = [in_scales(own["means"][k] - now, seen.scale) for k in range(len(self.halflives))]
        self._unroll(values, own["weights"], means, room)
        ahead = values[longest + 1 :]
        if not self.season:
            return ahead
        shape = seen.shape_ahead(np.arange(1, self.horizon + 1)) + (now - seen.last)
        ahead += in_scales(shape, seen.scale)
        return ahead

    @cached_property
    def _looked_at(self) -> list[Ints]:
        """``[n]`` each: how many windows ago what a forecast looks back to lies, in runs that fall by 1."""
        ago = np.array(sorted({lag - h for lag in self.lags for h in range(min(lag, self.horizon))})[::-1])
        runs = np.split(ago, np.flatnonzero(np.diff(ago) != -1) + 1)
        return [run[first : first + _AT_ONCE] for run in runs for first in range(0, len(run), _AT_ONCE)]

    def _unroll(self, values: Floats32, weights: Floats32, means: list[Floats32], room: Floats32) -> None:
        """Fills the horizons of ``values`` ``[M + N, ..., S]``, each from what is before it."""
        longest, count, low = max(self.lags), len(self.lags), -room
        stays = np.float32(1.0) - weights.sum(axis=0)
        rates = [np.float32(1.0 - 0.5 ** (1.0 / halflife)) for halflife in self.halflives]
        ahead = values[longest + 1 :]
        product = np.empty_like(ahead)
        for weight, lag in zip(weights, self.lags, strict=False):  # of what has come, all horizons at once
            until = min(lag + 1, self.horizon)
            part = np.multiply(weight, values[longest - lag : longest - lag + until], out=product[:until])
            ahead[:until] += part
        for h, after in enumerate(ahead):
            row = longest + h
            after += np.multiply(stays, values[row], out=product[0])
            for weight, lag in zip(weights, self.lags, strict=False):
                if lag < h:
                    after += np.multiply(weight, values[row - lag], out=product[0])
            for weight, mean in zip(weights[count:], means, strict=True):
                after += np.multiply(weight, mean, out=product[0])
            np.minimum(after, room, out=after)
            np.maximum(after, low, out=after)
            for mean, rate in zip(means, rates, strict=True):
                mean += rate * (after - mean)

    def _without_shape(self, seen: Seen, values: Floats, ago: Ints) -> Floats:
        """Values ``[n, ..., S]``, ``ago`` (``[n]`` or likewise) windows old, less the season's shape."""
        return values - seen.shape_ahead(-ago) if self.season else values


def _near(values: Floats, last: Floats, scale: Floats) -> Floats32:
    """Distances ``[n, ..., S]`` from the last value in scales; those of another level are 0, as missing ones.

    Redescending (Hampel 1974): whole up to 20 scales, nothing from twice that on.
    """
    far = np.empty(values.shape, np.float32)
    distances(values, last, 1.0 / (OTHER_LEVEL * scale), far)
    near_in_place(far, 0.0)
    far *= np.float32(OTHER_LEVEL)
    return far
