"""The level of each series and how much it moves: what makes its values level-free.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.components.base import Arrays, Block, Field

_TINY = 1e-12  # of the level: a meter that stands at a billion and moves by single units is not constant
_LARGEST = 8.0  # scales that one change counts as at the most
_SLOW = 8  # half-lives in that of the slow mean
_LONGEST_RUN = 40

_FIELDS = {
    "observed": Field("int64"),
    "mean": Field("float64"),
    "fast": Field("float64"),
    "slow": Field("float64"),
    "run": Field("uint8"),
    "last": Field("float64"),
    "age": Field("int64"),
}


@dataclass(frozen=True)
class Moments:
    """Per series: how many values it had, their running mean, how much they change, the last and its age.

    The mean forgets exponentially, with a plain average until enough was seen (Finch 2009, "Incremental
    calculation of weighted mean and variance", equation 130). A series has begun where ``observed`` is above
    0.

    The scale is a running mean of absolute changes from value to value, the larger of a fast one and half of
    a slow one: a quiet week does not make a usual day look like an outlier. Of a change of many scales only
    `_LARGEST` count, or one broken reading would set the scale for months; where one follows another that is
    how the series moves now, and twice as many count each time.

    Attributes:
        halflife: windows with a value after which half is forgotten.
        prior: scale of a series of one value, as a share of it.
    """

    halflife: int
    prior: float
    name: str = "moments"
    format_version: int = 2

    def spec(self) -> Mapping[str, Field]:
        """Seven numbers a series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``before``, ``mean``, ``last``, ``age``, ``scale`` and ``moves``."""
        forget, forget_slow = (1.0 - 2.0 ** (-1.0 / (self.halflife * k)) for k in (1, _SLOW))
        observed, mean, fast, slow, run, last, age = (own[name] for name in _FIELDS)
        values = block.values
        seen, shape = ~np.isnan(values), values.shape
        before, means, lasts, scales = (np.empty(shape) for _ in range(4))
        ages = np.empty(shape, np.int64)
        before[:1] = np.where((age == 0) & (observed > 0), last, np.nan)
        before[1:] = values[:-1]
        for t, (value, there) in enumerate(zip(values, seen, strict=True)):
            known = observed > 0
            observed = observed + there
            share, of_changes = 1.0 / np.maximum(observed, 1), 1.0 / np.maximum(observed - 1, 1)
            mean = np.add(
                mean, there * np.maximum(share, forget) * np.where(there, value - mean, 0.0), out=means[t]
            )
            change = np.where(there & known, np.abs(value - last) / np.sqrt(age + 1.0), 0.0)
            most = _LARGEST * np.maximum(fast, 0.5 * slow) * np.exp2(run.astype(np.float64))
            is_far = known & (change > most) & (most > 0)
            run = np.where(there, np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), 0), run).astype(
                np.uint8
            )
            change = np.where(is_far, most, change)
            changes = there & known
            fast = fast + changes * np.maximum(of_changes, forget) * (change - fast)
            slow = slow + changes * np.maximum(of_changes, forget_slow) * (change - slow)
            last = lasts[t] = np.where(there, value, last)
            np.maximum(fast, 0.5 * slow, out=scales[t])
            scales[t] = np.where(observed > 1, scales[t], self.prior * np.abs(last))
            age = ages[t] = np.where(there, 0, age + 1)
        after: Arrays = {
            "observed": observed,
            "mean": mean.copy(),  # not a view, which would keep the whole block
            "fast": fast,
            "slow": slow,
            "run": run,
            "last": last,
            "age": age,
        }
        least = _TINY * np.maximum(np.abs(means), 1.0)
        moves = scales > 10 * least
        np.maximum(scales, least, out=scales)
        if block.lengths is not None:
            after["age"] = age - (len(values) - block.lengths)  # padding has no value, and moves nothing else
        return after, replace(
            block, before=before, mean=means, last=lasts, scale=scales, age=ages, moves=moves
        )
