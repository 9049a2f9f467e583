"""Experts that learn nothing: the last value, and the last value of the season.

Letters: S series, M past windows, N horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats32
from forecaster.components.base import Field
from forecaster.components.experts.base import Expert, Seen, in_scales
from forecaster.components.season import windows_ago


@dataclass(frozen=True)
class Persistence(Expert):
    """Every horizon is the last value.

    Attributes:
        horizon: N.
    """

    horizon: int
    name = "persistence"
    reach = 0

    def spec(self) -> Mapping[str, Field]:
        """It keeps nothing."""
        return {}

    def learn(self, own: Arrays, seen: Seen, counts: Bools) -> None:
        """There is nothing to learn."""

    def forecast(self, own: Arrays, seen: Seen) -> Floats32:
        """See `Expert`."""
        return np.zeros((self.horizon, *seen.last.shape), np.float32)


@dataclass(frozen=True)
class SeasonalNaive(Expert):
    """A horizon is the last value of its season's phase, the last value where that is missing.

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
        """See `Expert`."""
        return self.label

    @property
    def reach(self) -> int:
        """A season."""
        return self.season - 1

    def spec(self) -> Mapping[str, Field]:
        """It keeps nothing: the ring does."""
        return {}

    def learn(self, own: Arrays, seen: Seen, counts: Bools) -> None:
        """There is nothing to learn."""

    def forecast(self, own: Arrays, seen: Seen) -> Floats32:
        """See `Expert`."""
        found = seen.back(windows_ago(self.season, self.horizon))
        return np.where(np.isnan(found), np.float32(0.0), in_scales(found - seen.last, seen.scale))
