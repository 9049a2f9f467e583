"""Experts that learn nothing: one repeats the last value, the other the last season.

Letters: S series, M past windows, N horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Floats32
from forecaster.components.base import Field
from forecaster.components.experts.base import Expert, ExpertInputs, in_scales
from forecaster.components.season import windows_ago


@dataclass(frozen=True)
class Persistence(Expert):
    """Forecasts the last value for every horizon.

    Attributes:
        horizon: N.
    """

    horizon: int
    name = "persistence"
    reach = 0

    def spec(self) -> Mapping[str, Field]:
        """Return no fields, because the expert has no state."""
        return {}

    def forecast(self, own: Arrays, inputs: ExpertInputs) -> Floats32:
        """Return the forecasts issued at the end of each window of ``inputs``, see `Expert.forecast`."""
        return np.zeros((self.horizon, *inputs.last.shape), np.float32)


@dataclass(frozen=True)
class SeasonalNaive(Expert):
    """Forecasts the value of the latest window that has the same phase of the season as the target window.

    If the latest window of that phase has no value, the forecast is the last value.

    Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", section 5.2.

    Attributes:
        horizon: N.
        season: windows after which a season repeats.
        label: name of the member.
    """

    horizon: int
    season: int
    label: str = "seasonal_naive"

    @property
    def name(self) -> str:
        """The name of the component, which is also the name of the member."""
        return self.label

    @property
    def reach(self) -> int:
        """The number of earlier windows that the expert reads: with the current one, they make a season."""
        return self.season - 1

    def spec(self) -> Mapping[str, Field]:
        """Return no fields, because the ring holds the values that the expert repeats."""
        return {}

    def forecast(self, own: Arrays, inputs: ExpertInputs) -> Floats32:
        """Return the forecasts issued at the end of each window of ``inputs``, see `Expert.forecast`."""
        same_phase = inputs.back(windows_ago(self.season, self.horizon))
        change = in_scales(same_phase - inputs.last, inputs.scale)
        return np.where(np.isnan(same_phase), np.float32(0.0), change)
