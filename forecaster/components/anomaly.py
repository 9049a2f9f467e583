"""How surprising a value is under the forecast of the window before, and whether to raise an alarm.

Letters: T windows, S series.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from forecaster.components.base import Arrays, Block, Bools, Field, Floats

_FIELDS = {
    "expected": Field("float64", (3,)),  # low, middle and high of the forecast for the next window
    "excess": Field("float32"),
    "beyond": Field("int32"),
    "threshold": Field("float32"),
    "last": Field("float64"),
    "run": Field("int32"),
    "repeats": Field("float32"),
}
_EXCESS0, _WEIGHT0, _WINDOWS = 0.35, 10, 100  # a normal tail beyond 5 % has a mean excess of 0.25
_LARGEST_EXCESS = 8.0  # means: one broken sensor must not make the next break look usual
_STEP = 0.5  # of the threshold, in natural logarithms of the p-value: what one alarm lowers it by
_LOWEST = math.log(1e-30)
_REPEATS0, _FORGET = 0.02, 1 / 500


@dataclass(frozen=True)
class Anomaly:
    """The p-value of each value, two-sided, and an alarm where it falls below a threshold of its series.

    The value is measured in spreads ``z``: its distance from the median over that of the outermost quantile
    on its side. Up to that quantile the p-value is a normal one; beyond, where a band says nothing, the tail
    is exponential with the series' own mean excess over the quantile, as extremes over a high threshold are
    (Pickands 1975; Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory", with shape
    0). A value that repeats itself exactly for a run of windows has, besides, the p-value of that run under
    the share of repeats that the series is used to, so that a sensor that hangs is seen: its forecasts are
    perfect.

    The threshold begins at the wanted rate and follows it: it falls by `_STEP` with an alarm and rises by a
    share of that between them, so that in the long run there are as many alarms as wanted, whatever the
    p-values are (Angelopoulos et al. 2023, "Conformal PID Control", section 2.1, quantile tracking).

    Attributes:
        low, high: the outermost quantile levels, 0 < low < 0.5 < high < 1.
        rate: wanted alarms per window of a series in which nothing is wrong, above 0 and below 1.
        middle: which of the quantiles is the median; the outermost are the first and the last.
    """

    low: float
    high: float
    rate: float
    middle: int
    name: str = "anomaly"
    format_version: int = 1

    def spec(self) -> Mapping[str, Field]:
        """44 bytes a series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Nothing expected yet: the first value has no p-value."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in _FIELDS.items()}
        own["expected"][:], own["last"][:] = np.nan, np.nan
        own["excess"][:], own["repeats"][:] = _EXCESS0, _REPEATS0
        own["threshold"][:] = math.log(self.rate)
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Fills ``out.anomaly``."""
        forecast = block.out.forecast[:, :, :, 0]
        for t, value in enumerate(block.values):
            there = ~np.isnan(value)
            p_value = self._p_value(own, value, there)
            known = ~np.isnan(p_value)
            with np.errstate(divide="ignore", invalid="ignore"):
                log_p = np.maximum(np.log(p_value), _LOWEST)
            alarm = known & (log_p < own["threshold"])
            block.out.anomaly[0, t, :, 0] = p_value
            block.out.anomaly[1, t, :, 0] = np.where(known, alarm, np.nan)
            moved = np.where(alarm, _STEP * (self.rate - 1.0), _STEP * self.rate)
            own["threshold"] += np.where(known, moved, 0.0).astype(np.float32)
            np.clip(own["threshold"], _LOWEST, 0.0, out=own["threshold"])
            after = np.stack([forecast[0, t], forecast[self.middle, t], forecast[-1, t]], axis=1)
            counts = block.counts(t)
            own["expected"] = after if counts is None else np.where(counts[:, None], after, own["expected"])
        return own, block

    def _p_value(self, own: Arrays, value: Floats, there: Bools) -> Floats:
        """``[S]`` of a window's values, NaN without one; moves the tails and the runs on."""
        low, middle, high = own["expected"].T
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = value - middle
            above = error >= 0
            z = np.abs(error) / np.maximum(np.where(above, high - middle, middle - low), 1e-300)
        z = np.where((error == 0) & there, 0.0, z)
        usual = np.where(above, NormalDist().inv_cdf(self.high), -NormalDist().inv_cdf(self.low))
        beyond = z > 1.0
        inside = 2.0 * torch.special.ndtr(torch.from_numpy(-usual * np.minimum(z, 1.0))).numpy()
        tail = 2.0 * np.where(above, 1.0 - self.high, self.low)
        with np.errstate(invalid="ignore", over="ignore"):
            p_value = np.where(beyond, tail * np.exp(-(z - 1.0) / own["excess"]), inside)
        self._learn_tail(own, z, beyond & there)
        run = self._learn_run(own, value, there)
        # The smaller of two p-values, twice (Bonferroni), where there is a run at all.
        p_value = np.where(run < 1.0, np.minimum(2.0 * np.minimum(p_value, run), 1.0), p_value)
        return np.where(there & ~np.isnan(middle), p_value, np.nan)

    def _learn_tail(self, own: Arrays, z: Floats, beyond: Bools) -> None:
        own["beyond"] += beyond.astype(np.int32)
        weight = 1.0 / np.minimum(own["beyond"] + _WEIGHT0, _WINDOWS)
        with np.errstate(invalid="ignore"):
            excess = np.minimum(z - 1.0, _LARGEST_EXCESS * own["excess"])
        own["excess"] += np.where(beyond, weight * (excess - own["excess"]), 0.0).astype(np.float32)

    def _learn_run(self, own: Arrays, value: Floats, there: Bools) -> Floats:
        """``[S]`` the p-value of so many repeats in a row."""
        repeats = there & (value == own["last"])
        own["run"] = np.where(there, np.where(repeats, own["run"] + 1, 0), own["run"]).astype(np.int32)
        p_value: Floats = np.power(own["repeats"].astype(np.float64), own["run"])
        # Slowly: a sensor that hangs for a day must not excuse itself.
        own["repeats"] += np.where(there, _FORGET * (repeats - own["repeats"]), 0.0).astype(np.float32)
        np.clip(own["repeats"], 1e-3, 0.999, out=own["repeats"])
        own["last"] = np.where(there, value, own["last"])
        return p_value
