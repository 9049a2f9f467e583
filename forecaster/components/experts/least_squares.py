"""An expert that regresses each series on its own past, window by window, by recursive least squares.

Letters: S series, M past windows, N horizon, L lags, E running means, D = L + E regressors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints, Ints32, accumulate_rows
from forecaster.components.base import Field
from forecaster.components.experts.base import Expert, ExpertInputs, in_scales
from forecaster.components.network.ridge import OTHER_LEVEL, distances, limit_distances

_CLIP = 50.0  # while weights are learned, regressors and targets are clipped to this many scales
_LARGEST_WEIGHT = 3.0
_NOW = np.array([0])
_CACHED_NUMBERS = 65_536  # the inverse is updated in parts of about this many numbers, to fit the cache
# A forecast reads past windows in groups of `_AT_ONCE`: the arrays computed for one group fit the cache.
# A group has more windows if they hold at most `_FEW` values together, as with few series.
_AT_ONCE, _FEW = 16, 8_192
# A forecast's distance from the last value is clipped to a limit, before the season's shape is added.
# The limit is one scale plus `_ROOM` times the largest distance of a lagged value from the last value.
# `_limited_distances` computes the distances of the lagged values, and shrinks large ones.
_ROOM = 2.0
# The regressors of about this many values (windows times series) are computed at once, to fit in the cache.
_LEARNED_AT_ONCE = 2_500


@dataclass(frozen=True)
class LeastSquares(Expert):
    """Autoregression of the changes of each series, by recursive least squares with forgetting.

    The change from one window to the next is regressed on the differences of lagged values, and of running
    means, from the value of the window before, all in scales: no level enters (Haykin, "Adaptive Filter
    Theory", table 9.1). Forecasts are made horizon by horizon, each from the horizons before it. Forgetting
    lets the inverse grow. Nothing is forgotten while the inverse is as large as at the beginning, so that it
    cannot diverge for a series that is constant for long.

    Attributes:
        label: name of the member.
        horizon: N.
        lags: the regressors among past windows, as windows before the last one.
        halflives: half-lives of the running means that are regressors.
        season: whether to subtract the season's shape from values first, and add it to the forecasts.
        forget: the share of the past's weight that is kept with each value.
        prior: the inverse of the weights' initial variance.
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
        """The name of the component, which is also the name of the member."""
        return self.label

    @property
    def reach(self) -> int:
        """The number of windows before the current one that the expert reads: the longest lag plus 1.

        The 1 is added because a lag counts back from the window before the current one.
        """
        return max(self.lags) + 1

    @property
    def _size(self) -> int:
        return len(self.lags) + len(self.halflives)

    def spec(self) -> Mapping[str, Field]:
        """Return the fields; ``means`` is one of them only if half-lives are configured.

        ``inverse`` is the inverse of the regressors' second moments, and ``known`` the number of values.
        """
        fields = {
            "weights": Field("float32", (self._size,)),
            "inverse": Field("float32", (self._size, self._size)),
            "known": Field("int32"),
        }
        return fields | ({"means": Field("float64", (len(self.halflives),))} if self.halflives else {})

    def init(self, series: int) -> Arrays:
        """Return the initial arrays, with weights of 0.

        With these weights, the forecast is the last value, plus the changes of the season's shape if a season
        is configured.
        """
        own = super().init(series)
        own["inverse"][:] = np.eye(self._size) / self.prior
        return own

    def learn(self, own: Arrays, inputs: ExpertInputs, counts: Bools) -> Arrays:
        """Update the regression weights window by window, see `Expert.learn`.

        The weights learn from a window only if the window and the window before have values, the series is
        not constant, and more than `reach` values were observed before.
        """
        windows, series = inputs.value.shape
        names = ("weights", "means") if self.halflives else ("weights",)
        after = {name: np.empty((len(own[name]), windows, series), own[name].dtype) for name in names}
        at_once = max(1, _LEARNED_AT_ONCE // max(series, 1))
        for first in range(0, windows, at_once):
            some = slice(first, first + at_once)
            part = {name: array[:, some] for name, array in after.items()}
            self._learn_windows(own, inputs.rows(some), counts[some], part)
        return after

    def _learn_windows(self, own: Arrays, inputs: ExpertInputs, counts: Bools, after: Arrays) -> None:
        """Learn from ``inputs``, and write the weights and any means after each window into ``after``."""
        # Compute regressors (distances from the previous value) and targets for all windows at once, because
        # each call of NumPy has a cost.
        has_value = ~np.isnan(inputs.value) & counts
        back = np.array((*self.lags, 0)) + 1
        lagged = self._without_shape(inputs, inputs.back(back), back)
        before = lagged[-1]
        now = self._without_shape(inputs, inputs.value[None], _NOW)[0]
        x = np.clip(_limited_distances(lagged[:-1], before, inputs.scale), -_CLIP, _CLIP)
        known = np.concatenate([own["known"][None], has_value], dtype=np.int32)
        accumulate_rows(np.add, known)
        own["known"][:] = known[-1]
        if self.halflives:
            means = self._learn_means(own["means"], now, has_value, known[1:], after["means"])
            x = np.concatenate([x, np.clip(in_scales(means - before, inputs.scale), -_CLIP, _CLIP)])
        change = now - before
        learns = has_value & inputs.moves & ~np.isnan(change) & (known[:-1] > self.reach)
        with np.errstate(invalid="ignore"):
            target = np.clip(change / inputs.scale, -_CLIP, _CLIP).astype(np.float32)
        x, target = (np.where(learns, part, np.float32(0.0)) for part in (x, target))
        weights, inverse, has_lessons = own["weights"], own["inverse"], learns.any(axis=1).tolist()
        for t, does_learn in enumerate(has_lessons):
            if does_learn:
                self._update(weights, inverse, x[:, t], target[t], learns[t])
            after["weights"][:, t] = weights

    def _learn_means(
        self, means: Floats, now: Floats, has_value: Bools, known: Ints32, after: Floats
    ) -> Floats:
        """Update the running means ``[E, S]`` in place; return them before each window, ``[E, T, S]``.

        Args:
            means: the running means before the first window.
            now: ``[T, S]``, the values, from which the season's shape may have been subtracted.
            has_value: ``[T, S]``, whether the mean counts the value.
            known: ``[T, S]``, the number of values after each window.
            after: ``[E, T, S]``, filled with the means after each window.
        """
        first, least = means.copy(), np.array([1.0 - 0.5 ** (1.0 / h) for h in self.halflives])
        share = has_value / np.maximum(known, 1)
        # The axes of ``rates`` are window, half-life and series.
        rates = np.maximum(least[:, None] * has_value[:, None], share[:, None])
        value = np.where(has_value, now, 0.0)
        for t, rate in enumerate(rates):
            step = value[t] - means
            step *= rate
            means += step
            after[:, t] = means
        return np.concatenate([first[:, None], after[:, :-1]], axis=1)

    def _update(
        self, weights: Floats32, inverse: Floats32, x: Floats32, target: Floats32, learns: Bools
    ) -> None:
        """Update the regression weights by one step of recursive least squares.

        The ``inverse`` of the regressors' second moments is updated, too. Only the series where ``learns``
        ``[S]`` is True are updated.
        """
        gain = np.einsum("ijs,js->is", inverse, x)
        size = np.einsum("is,is->s", gain, x)
        error = target - np.einsum("is,is->s", weights, x)
        # In float32, rounding can make the inverse not positive definite. If so, reset the inverse.
        is_positive = size >= 0
        if np.count_nonzero(is_positive) < len(size):
            lost = ~is_positive & learns
            inverse[:, :, lost] = (np.eye(len(x), dtype=np.float32) / self.prior)[:, :, None]
            gain[:, lost], size[lost] = 0, 0
        size += np.float32(self.forget)
        weights += gain / size * error
        np.minimum(weights, _LARGEST_WEIGHT, out=weights)
        np.maximum(weights, -_LARGEST_WEIGHT, out=weights)
        # Divide the gain by the square root of ``size`` before the outer product of the gain with itself:
        # both factors are then equal, so rounding keeps the inverse exactly symmetric.
        # An asymmetry of the inverse would grow until the inverse is not positive definite.
        gain /= np.sqrt(size)
        trace = np.add.reduce(inverse.diagonal().T - gain * gain)
        forgets = learns & (trace < len(x) / self.prior)
        grows = forgets * (np.float32(1.0 / self.forget) - np.float32(1.0)) + np.float32(1.0)
        if inverse.size <= _CACHED_NUMBERS and inverse.flags.c_contiguous:
            # NumPy has a fixed cost for each row (the last axis) of its operands, and the rows are short if
            # there are few series. So merge the last two axes into longer rows.
            rows = inverse.reshape(len(x), -1)
            rows -= np.repeat(gain, len(x), axis=0).reshape(rows.shape) * gain.reshape(-1)
            rows *= np.repeat(grows[None], len(x), axis=0).reshape(-1)
            return
        # Update some rows of the inverse at a time, so that each row passes through the cache only once.
        at_once = max(1, _CACHED_NUMBERS // max(gain.size, 1))
        for first in range(0, len(inverse), at_once):
            rows = inverse[first : first + at_once]
            rows -= gain[first : first + at_once, None] * gain
            rows *= grows

    def forecast(self, own: Arrays, inputs: ExpertInputs) -> Floats32:
        """Return the forecasts issued at the end of each window of ``inputs``, see `Expert.forecast`."""
        now = self._without_shape(inputs, inputs.last[None], inputs.age[None])[0]
        longest = max(self.lags)
        # Compute with distances from the last value: float32 would round small changes of large values to 0.
        values = np.zeros((longest + 1 + self.horizon, *now.shape), np.float32)
        for back in _past_windows_read(self.lags, self.horizon, max(_AT_ONCE, _FEW // max(now.size, 1))):
            past = self._without_shape(inputs, inputs.back(back), back)
            values[longest - back[0] : longest - back[-1] + 1] = _limited_distances(past, now, inputs.scale)
        lags = np.array(self.lags)
        room = _ROOM * np.abs(values[longest - lags]).max(axis=0) + np.float32(1.0)
        means = in_scales(own["means"] - now, inputs.scale) if self.halflives else values[:0]
        self._unroll(values, own["weights"], means, room)
        ahead = values[longest + 1 :]
        if not self.season:
            return ahead
        shape = inputs.future_shape(np.arange(1, self.horizon + 1)) + (now - inputs.last)
        ahead += in_scales(shape, inputs.scale)
        return ahead

    def _unroll(self, values: Floats32, weights: Floats32, means: Floats32, room: Floats32) -> None:
        """Forecast all horizons one by one into the last rows of ``values``, each from the rows before it.

        Args:
            values: ``[M + N, ..., S]``, distances from the last value in scales; the last N rows are written.
            weights: ``[D, ..., S]``.
            means: the running means ``[E, ..., S]``, which are changed.
            room: ``[..., S]``, the largest distance of a forecast from the last value.
        """
        longest, low = max(self.lags), -room
        of_lags, of_means = weights[: len(self.lags)], weights[len(self.lags) :]
        stays = np.float32(1.0) - weights.sum(axis=0)
        rates = np.array([1.0 - 0.5 ** (1.0 / halflife) for halflife in self.halflives], np.float32)
        rates = rates.reshape(-1, *[1] * (values.ndim - 1))
        ahead = values[longest + 1 :]
        product = np.empty_like(ahead)
        self._add_past_values(ahead, values, of_lags, product)
        for h, after in enumerate(ahead):
            row = longest + h  # ``values[row]`` belongs to the window before the one that ``after`` is for
            after += np.multiply(stays, values[row], out=product[0])
            for weight, lag in zip(of_lags, self.lags, strict=True):
                if lag < h:
                    after += np.multiply(weight, values[row - lag], out=product[0])
            for part in of_means * means:
                after += part
            np.minimum(after, room, out=after)
            np.maximum(after, low, out=after)
            if self.halflives:
                means += rates * (after - means)

    def _add_past_values(
        self, ahead: Floats32, values: Floats32, of_lags: Floats32, product: Floats32
    ) -> None:
        """Add to the forecasts ``ahead``, in place, the lag weights times the past values.

        `_unroll` adds the lag weights times earlier forecasts. The products of one lag are computed for all
        horizons at once. ``ahead`` and ``product`` are ``[N, ..., S]``; ``product`` is overwritten. The
        other arguments are as in `_unroll`.
        """
        longest = max(self.lags)
        for weight, lag in zip(of_lags, self.lags, strict=True):
            until = min(lag + 1, self.horizon)
            part = np.multiply(weight, values[longest - lag : longest - lag + until], out=product[:until])
            ahead[:until] += part

    def _without_shape(self, inputs: ExpertInputs, values: Floats, ago: Ints) -> Floats:
        """Subtract the season's shape from ``values``; return them unchanged if no season is configured.

        Args:
            inputs: the windows.
            values: ``[n, ..., S]``.
            ago: how many windows ago the values were observed, ``[n]`` or ``[n, ..., S]``.
        """
        return values - inputs.future_shape(-ago) if self.season else values


def _limited_distances(values: Floats, last: Floats, scale: Floats) -> Floats32:
    """Return the signed distances of values from the last value, in scales, with large ones shrunk towards 0.

    The result is ``[n, ..., S]``. Beyond 20 scales the result shrinks as the distance grows, and from
    40 scales on it is 0 (Hampel 1974). A missing value counts as the last value.
    """
    distance = np.empty(values.shape, np.float32)
    distances(values, last, 1.0 / (OTHER_LEVEL * scale), distance)
    limit_distances(distance, 0.0)
    distance *= np.float32(OTHER_LEVEL)
    return distance


@lru_cache(maxsize=64)
def _past_windows_read(lags: tuple[int, ...], horizon: int, at_once: int) -> list[Ints]:
    """Return how many windows ago each past value was observed that a forecast reads, in several arrays.

    The values of one array are from consecutive windows, oldest first, at most ``at_once`` of them.
    """
    ago = np.array(sorted({lag - h for lag in lags for h in range(min(lag, horizon))})[::-1])
    runs = np.split(ago, np.flatnonzero(np.diff(ago) != -1) + 1)
    return [run[first : first + at_once] for run in runs for first in range(0, len(run), at_once)]
