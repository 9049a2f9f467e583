"""The numbers that `forecaster.components.moments.Moments` tracks, after each window of a block.

All series are updated together, and whatever does not depend on a running mean is computed for all windows at
once: with few series, the number of NumPy calls per window decides how fast a forecaster steps.

Letters: T windows, S series.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Ints, accumulate_rows
from forecaster.time.windows import latest_rows

# A change is clipped to this many usual changes. The limit doubles with each consecutive clipped change.
# A seasonal change is clipped to this many times the larger of its running mean and the scale.
_LARGEST = 8.0
# A value's distance from the mean is clipped to this many times the larger of spread and scale.
# If the value's clipped change is larger than this limit, the distance is clipped to that change instead.
_LARGEST_DISTANCE = 20.0
_SLOW = 8  # the slow mean of changes has this many times the half-life of the fast mean
_LONGEST_RUN = 40  # the field ``run`` counts consecutive clipped changes, up to this number
# A series counts as constant so far if it has more than this many values, and the fast and the slow mean of
# its changes are 0.
_STILL = 24
# If a series has been constant since its first value, the next `_IGNORED_CHANGES` changes are clipped to 0.
# Two clipped changes are enough to ignore a single broken reading, which makes two changes (away from the
# level, and back), or a lasting shift of the level, which makes one.
_IGNORED_CHANGES = 2
# When a constant series returns to its level after clipped changes, the field ``run`` is set to
# `_RETURNED` + `_STILL`. While ``run`` is above `_RETURNED`, a change is not clipped. Each later value
# at the level lowers ``run`` by 1. The last of `_STILL` such values sets ``run`` to 0.
_RETURNED = 64

_TRACKS = ("fast", "slow", "falls", "rises")


class PlainMoments(NamedTuple):
    """The moments that are not running means, so they are computed for all windows of a block at once.

    Row 0 holds a moment before the block, and row ``t + 1`` the moment after window ``t``.

    Attributes:
        observed, last, age, lowest, highest: ``[T + 1, S]``, see `Block`.
    """

    observed: Ints
    last: Floats
    age: Ints
    lowest: Floats
    highest: Floats

    @staticmethod
    def of(own: Arrays, values: Floats) -> PlainMoments:
        """Compute the moments from the arrays of `Moments` and the values of a block ``[T, S]``."""
        has_value = ~np.isnan(values)
        observed = np.concatenate([own["observed"][None], has_value], dtype=np.int64)
        accumulate_rows(np.add, observed)
        latest = latest_rows(has_value, -1 - own["age"])
        age = np.arange(-1, len(values))[:, None] - latest
        last = np.concatenate([own["last"][None], values])
        for t in np.flatnonzero(~has_value.all(axis=1)).tolist():
            np.copyto(last[t + 1], last[t], where=~has_value[t])
        begun = observed > 0
        extremes = []
        for name, extreme in (("lowest", np.fmin), ("highest", np.fmax)):
            reached = np.concatenate([np.where(begun[0], own[name], np.nan)[None], values])
            accumulate_rows(extreme, reached)
            extremes.append(np.where(begun, reached, own[name]))
        return PlainMoments(observed, last, age, *extremes)

    def newest(self) -> Arrays:
        """Return the moments after the last window by name, ``[S]`` each, as views."""
        return {name: array[-1] for name, array in self._asdict().items()}


class RunningMeans:
    """The running means of all series, which are computed window by window.

    Row 0 of the arrays with ``T + 1`` rows holds a mean before the block, and row ``t + 1`` the mean after
    window ``t``.

    Attributes:
        tracks: ``[T + 1, 4, S]``, the fields ``fast``, ``slow``, ``falls`` and ``rises`` of `Moments`.
        mean, spread, seasonal: ``[T + 1, S]``.
        seasons: ``[T + 1, S]`` int64.
        scale: ``[T, S]``.
        variance, run: ``[S]``, after the last window.
    """

    def __init__(self, halflife: int, prior: float, own: Arrays, values: Floats, past: PlainMoments) -> None:
        """Compute everything that does not depend on a running mean, for all windows at once.

        Args:
            halflife: see `forecaster.components.moments.Moments`.
            prior: see `forecaster.components.moments.Moments`.
            own: the arrays of `Moments` before the block; not changed.
            values: ``[T, S]``, the values of the block.
            past: the plain moments of the block.
        """
        self.values, self.past, self.prior = values, past, prior
        self.forget, forget_slow = (1.0 - 2.0 ** (-1.0 / (halflife * k)) for k in (1, _SLOW))
        has_value, begun, observed = ~np.isnan(values), past.observed[:-1] > 0, past.observed[1:]
        self.has_value, has_change = has_value, has_value & begun
        change = np.abs(values - past.last[:-1]) / np.sqrt(past.age[:-1] + 1.0)
        self.change = np.where(has_change, change, 0.0)
        self.weight = has_value * np.maximum(1.0 / np.maximum(observed, 1), self.forget)
        self.kept = 1.0 - self.weight
        # The axes of ``rates`` and ``targets`` are window, mean (as in ``tracks``) and series.
        self.rates, self.targets = np.empty((2, len(values), 4, values.shape[1]))
        share = 1.0 / np.maximum(observed - 1, 1)
        self.rates[:, 0] = has_change * np.maximum(share, self.forget)
        self.rates[:, 1] = has_change * np.maximum(share, forget_slow)
        self.rates[:, 2:] = self.weight[:, None]
        self.targets[:, 2] = np.where(begun, past.lowest[:-1] - past.lowest[1:], 0.0)
        self.targets[:, 3] = np.where(begun, past.highest[1:] - past.highest[:-1], 0.0)
        self.is_young: Bools = np.logical_or.reduce(observed <= 1, axis=1)
        self.run, self.has_runs = own["run"], bool(own["run"].any())
        self.tracks = _rows(np.stack([own[name] for name in _TRACKS]), len(values))
        self.scale, self.variance = np.empty(values.shape), own["variance"]
        self.mean, self.spread = (
            _rows(part, len(values)) for part in (own["mean"], np.sqrt(own["variance"]))
        )
        self.seasonal, self.own_seasons = _rows(own["seasonal"], len(values)), own["seasons"]

    def newest(self) -> Arrays:
        """Return, by name, the fields of `Moments` that this class updates, after the last window.

        Each is ``[S]``, and shares memory with an attribute of this object.
        """
        tracks = dict(zip(_TRACKS, self.tracks[-1], strict=True))
        others = {"mean": self.mean[-1], "seasonal": self.seasonal[-1], "seasons": self.seasons[-1]}
        return tracks | others | {"variance": self.variance, "run": self.run}

    def update_all(self, season_changes: Floats) -> None:
        """Update all means with the values of the block, window by window.

        Args:
            season_changes: ``[T, S]``, the absolute changes since one season ago; NaN if either value is
                missing.
        """
        has_change = ~np.isnan(season_changes)
        self.seasons = np.concatenate([self.own_seasons[None], has_change], dtype=np.int64)
        accumulate_rows(np.add, self.seasons)
        rates = has_change * np.maximum(1.0 / np.maximum(self.seasons[1:], 1), self.forget)
        season_changes = np.where(has_change, season_changes, 0.0)
        usual = _usual(self.tracks[0])
        for t, season_change in enumerate(season_changes):
            change, repeats = self._clipped_change(t, usual)
            self.targets[t, :2] = change
            _approach(self.tracks[t], self.targets[t], self.rates[t], self.tracks[t + 1])
            usual = _usual(self.tracks[t + 1])
            self._update_scale(t, usual)
            self._update_level(t, change)
            if repeats is not None:
                np.copyto(self.mean[t + 1], self.values[t], where=repeats)
            most = np.maximum(self.seasonal[t], self.scale[t])
            most *= _LARGEST
            np.minimum(season_change, most, out=most)
            _approach(self.seasonal[t], most, rates[t], self.seasonal[t + 1])

    def _clipped_change(self, t: int, usual: Floats) -> tuple[Floats, Bools | None]:
        """Return the clipped change of each series in window ``t``, and update the field ``run``.

        Also return which series repeat the last value of a constant past; None if no series may be constant.
        """
        change, most, run = self.change[t], _LARGEST * usual, self.run
        if self.has_runs:
            most *= np.exp2(run.astype(np.float64))
        if np.count_nonzero(usual) < len(usual):
            return self._clipped_change_of_constant(t, usual == 0, most)
        is_far = change > most
        if self.has_runs or np.count_nonzero(is_far):
            shorter = np.where(self.has_value[t], np.uint8(0), run)
            self.run = np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), shorter)
            self.has_runs = bool(self.run.any())
        return np.minimum(change, most), None

    def _clipped_change_of_constant(self, t: int, is_still: Bools, most: Floats) -> tuple[Floats, Bools]:
        """Clip the changes of window ``t`` and update ``run``, when some series have a usual change of 0.

        Args:
            t: row of the window.
            is_still: ``[S]``, the series without a counted change.
            most: ``[S]``, the limit of changes.

        Returns:
            The changes, and which series repeat the last value of a constant past, ``[S]`` each.
        """
        change, run, value = self.change[t], self.run, self.values[t]
        still = (self.past.observed[t + 1] > _STILL) & is_still
        # While the first changes after a constant past are clipped to 0, the mean keeps the constant value.
        # So a later value equal to the mean is a return to the constant value.
        returns = still & (run > 0) & (run <= _IGNORED_CHANGES) & (value == self.mean[t])
        is_far = (change > most) & ((most > 0) | (still & (run < _IGNORED_CHANGES)) | returns)
        longer = np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), np.where(still & (change == 0), run, 0))
        longer = np.where(is_far & returns, _RETURNED + _STILL, longer)
        forgets = ~is_far & (longer > _RETURNED)
        longer = np.where(forgets, np.where(longer > _RETURNED + 1, longer - 1, 0), longer)
        self.run = np.where(self.has_value[t], longer, run).astype(np.uint8)
        self.has_runs = bool(self.run.any())
        return np.where(is_far, most, change), still & (value == self.past.last[t])

    def _update_scale(self, t: int, usual: Floats) -> None:
        """Set the scale of window ``t``: the usual change; with only one value, a share of that value."""
        self.scale[t] = usual
        if self.is_young[t]:
            prior = self.prior * np.abs(self.past.last[t + 1])
            np.copyto(self.scale[t], prior, where=self.past.observed[t + 1] <= 1)

    def _update_level(self, t: int, change: Floats) -> None:
        """Update the mean and the spread with the clipped distance of each value from the mean."""
        most = np.maximum(self.spread[t], self.scale[t])
        most *= _LARGEST_DISTANCE
        np.maximum(most, change, out=most)
        if self.is_young[t]:
            most[self.past.observed[t + 1] == 1] = np.inf
        # Where the value is missing, the weight is 0.
        distance = self.past.last[t + 1] - self.mean[t]
        np.minimum(distance, most, out=distance)
        np.maximum(distance, np.negative(most, out=most), out=distance)
        step = self.weight[t] * distance
        np.add(self.mean[t], step, out=self.mean[t + 1])
        step *= distance
        step += self.variance
        self.variance = np.multiply(self.kept[t], step, out=step)
        np.sqrt(step, out=self.spread[t + 1])


def _rows(first: Floats, windows: int) -> Floats:
    """Return a new array of ``windows + 1`` rows: row 0 is ``first``, the other rows are not initialised."""
    rows = np.empty((windows + 1, *first.shape))
    rows[0] = first
    return rows


def _usual(tracks: Floats) -> Floats:
    """Return the usual change of each series, ``[S]``, from its ``tracks`` (see `RunningMeans`)."""
    usual: Floats = np.maximum(tracks[0], 0.5 * tracks[1])
    return usual


def _approach(mean: Floats, target: Floats, rate: Floats, out: Floats) -> None:
    """Move running means towards ``target`` by the share ``rate``, and write them to ``out``."""
    np.subtract(target, mean, out=out)
    out *= rate
    out += mean
