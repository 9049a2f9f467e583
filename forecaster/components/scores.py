"""Errors of past forecasts, computed when their actuals are observed.

Letters: T windows, S series, N horizon, Q quantiles, A anchor horizons, K scored horizons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Floats
from forecaster.components.anchors import anchor_horizons
from forecaster.components.base import Block, Field

# Errors are clipped to this many units, because their sums are kept as int64, in millionths of a unit.
_LARGEST = 1e6


def scored_horizons(horizon: int) -> tuple[int, ...]:
    """Return the horizons at which forecasts are scored: the first, a middle and the last anchor horizon."""
    anchors = anchor_horizons(horizon)
    return tuple(sorted({anchors[0], anchors[len(anchors) // 2], anchors[-1]}))


def scored_places(horizon: int) -> list[int]:
    """Return the positions of the `scored_horizons` among the anchor horizons."""
    anchors = anchor_horizons(horizon)
    return [anchors.index(scored) for scored in scored_horizons(horizon)]


@dataclass(frozen=True)
class Scores:
    """Scores the combined forecasts at the scored horizons when their actuals are observed.

    `Stacking` and `Intervals` store the forecasts, so this component has no arrays in the state, and scores
    need no memory for each series. A constant series has no residuals, so its forecasts are not scored.

    Attributes:
        levels: Q quantile levels, rising, 0.5 among them; ``(0.5,)`` if no intervals are stored.
        horizon: N.
    """

    levels: tuple[float, ...]
    horizon: int
    name: str = "scores"
    format_version: int = 1
    writes = frozenset({"out.scores"})

    @property
    def reads(self) -> frozenset[str]:
        """The names of the block's fields that `step` reads and another component fills."""
        return frozenset({"residuals", "unit", *(["bands"] if len(self.levels) > 1 else [])})

    def spec(self) -> Mapping[str, Field]:
        """Return no fields, because the component keeps no arrays in the state."""
        return {}

    def init(self, series: int) -> Arrays:
        """Return no arrays, because the component has none."""
        return {}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Write the scores of the forecasts whose actuals are in the block to ``out.scores``."""
        if not block.out.scores.shape[-1]:
            return own, block
        # The axes of ``residual`` are window, scored horizon and series.
        residual = block.residuals[:, scored_places(self.horizon)]
        if len(self.levels) > 1:
            error, pinball, inside = self._quantile_scores(residual, block.bands)
        else:
            error, pinball, inside = residual, *np.full((2, *residual.shape), np.nan)
        unit = block.unit[:, None]
        with np.errstate(over="ignore"):  # the quotient can overflow to infinity, and is clipped
            scaled = (np.clip(part / unit, -_LARGEST, _LARGEST) for part in (error, pinball))
            for row, part in zip(block.out.scores, (*scaled, inside), strict=True):
                row[:] = part.swapaxes(1, 2)
        return own, block

    def _quantile_scores(self, residual: Floats, bands: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the signed error of the median, the mean pinball loss over the quantiles, and the coverage.

        The coverage is 1 if the actual is between the outermost quantiles, else 0.

        Args:
            residual: ``[T, K, S]``, the actuals less the combined forecasts; NaN if missing.
            bands: ``[T, K, Q - 1, S]``, see `Block`.
        """
        middle = self.levels.index(0.5)
        # As `Intervals.step` does, make the quantiles rise and clip the median to its two neighbours.
        outer = np.maximum.accumulate(bands, axis=2)
        below = outer[:, :, middle - 1] if middle else None
        above = outer[:, :, middle] if middle < outer.shape[2] else None
        error = residual - np.clip(np.zeros(residual.shape), below, above)
        pinball = 0.5 * np.abs(error)
        for place, level in enumerate(level for level in self.levels if level != 0.5):
            miss = residual - outer[:, :, place]
            pinball += np.maximum(level * miss, (level - 1.0) * miss)
        known = ~np.isnan(error)
        low = outer[:, :, 0] if middle else residual - error
        high = outer[:, :, -1] if middle < outer.shape[2] else residual - error
        inside = np.where(known, (low <= residual) & (residual <= high), np.nan)
        return error, pinball / len(self.levels), inside
