"""The level and the spread of each series: what makes its values level-free, and its forecasts its own again.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.components.base import Arrays, Block, Field

_TINY = 1e-12  # of the level: a meter that stands at a billion and moves by single units is not constant

_FIELDS = {
    "observed": Field("int64"),
    "mean": Field("float64"),
    "variance": Field("float64"),
    "last": Field("float64"),
    "age": Field("int64"),
}


@dataclass(frozen=True)
class Moments:
    """Per series: windows with a value so far, their running mean and variance, the last one and its age.

    The mean and the variance forget exponentially, with a plain average until enough was seen (Finch 2009,
    "Incremental calculation of weighted mean and variance", equations 143 and following). A series has begun
    where ``observed`` is above 0.

    Attributes:
        halflife: windows with a value after which half is forgotten.
    """

    halflife: int
    name: str = "moments"
    format_version: int = 1

    def spec(self) -> Mapping[str, Field]:
        """Five numbers a series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``before``, ``mean``, ``last``, ``scale`` and ``age``."""
        forget = 1.0 - 2.0 ** (-1.0 / self.halflife)
        observed, mean, variance, last, age = (own[name] for name in _FIELDS)
        values = block.values
        seen, shape = ~np.isnan(values), values.shape
        before, means, lasts, variances = (np.empty(shape) for _ in range(4))
        ages = np.empty(shape, np.int64)
        before[:1] = np.where((age == 0) & (observed > 0), last, np.nan)
        before[1:] = values[:-1]
        for t, (value, there) in enumerate(zip(values, seen, strict=True)):
            observed = observed + there
            weight = there * np.maximum(1.0 / np.maximum(observed, 1), forget)
            delta = np.where(there, value - mean, 0.0)
            step = weight * delta
            mean = np.add(mean, step, out=means[t])
            variance = np.multiply(1.0 - weight, variance + step * delta, out=variances[t])
            last = lasts[t] = np.where(there, value, last)
            age = ages[t] = np.where(there, 0, age + 1)
        after: Arrays = {
            "observed": observed,
            "mean": mean.copy(),  # not a view, which would keep the whole block
            "variance": variance.copy(),
            "last": last,
            "age": age,
        }
        scale = np.sqrt(variances, out=variances)
        np.maximum(scale, _TINY * np.maximum(np.abs(means), 1.0), out=scale)
        if block.lengths is not None:
            after["age"] = age - (len(values) - block.lengths)  # padding has no value, and moves nothing else
        return after, replace(block, before=before, mean=means, last=lasts, scale=scale, age=ages)
