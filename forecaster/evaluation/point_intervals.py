"""Add prediction intervals to point forecasts, so that the intervals of baselines can be scored, too.

Letters: T windows, S series, N horizon, Q quantiles, M members, A anchors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forecaster.arrays import Floats
from forecaster.components.anchors import anchor_horizons
from forecaster.components.base import Block, Outputs
from forecaster.components.intervals import Intervals
from forecaster.time.frequency import Frequency


class PointIntervals:
    """Quantiles around point forecasts of members, computed from the earlier errors of each member.

    They are computed by `forecaster.components.intervals`, as for the combined forecast, and updated in every
    window. Each member's series are passed to that component as separate series.

    Args:
        members: names of the members.
        levels: Q quantile levels, rising, with 0.5 among them.
        horizon: N.
        scale: ``[S]`` scale of each series.
        freq: length of a window.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        levels: tuple[float, ...],
        horizon: int,
        scale: Floats,
        freq: Frequency,
    ) -> None:
        self._members, self._freq = members, freq
        self._scale = np.tile(scale, len(members))
        self._intervals = Intervals(levels, horizon)
        self._own = self._intervals.init(len(self._scale))
        self._anchors = anchor_horizons(horizon)
        # `_points` stores the point forecasts issued in the last windows, at the anchor horizons.
        # A later block brings the actual of at least one forecast of each of these windows.
        self._points = np.empty((0, len(self._anchors), len(self._scale)))

    def step(self, start: int, values: Floats, points: Mapping[str, Floats]) -> dict[str, Floats]:
        """Step through a block of windows, and return each member's quantiles by its name.

        They are ``[Q, T, S, N]``: by quantile level, window, series and horizon.

        Args:
            start: index of the first window, which follows the last window of the previous call.
            values: ``[T, S]`` values, NaN where missing.
            points: ``[T, S, N]`` of each member; NaN if there is no forecast.
        """
        # The second axis of ``joined`` holds all series of the first member, then all series of the next.
        joined = np.concatenate([points[name] for name in self._members], axis=1)
        values = np.tile(values, len(self._members))
        out = Outputs.empty(len(self._intervals.levels), 0, *joined.shape)
        out.forecast[:] = np.nan_to_num(joined)
        block = Block(
            np.array([start]),
            values,
            self._freq,
            scale=np.broadcast_to(self._scale, values.shape),
            out=out,
            residuals=self._residuals(values, joined),
        )
        self._own, block = self._intervals.step(self._own, block)
        out.forecast[:, np.isnan(joined)] = np.nan
        parts = np.split(out.forecast, len(self._members), axis=2)
        return dict(zip(self._members, parts, strict=True))

    def _residuals(self, values: Floats, joined: Floats) -> Floats:
        """Return the residuals: each value minus the earlier forecast of it, at each anchor horizon.

        The axes ``[T, A, M * S]`` are T windows, A anchor horizons, and the S series of each of M members. A
        residual without a value or a forecast is NaN. The point forecasts for later blocks' windows are
        stored.
        """
        anchors = np.array(self._anchors)
        stored = len(self._points)
        all_points = np.concatenate([self._points, np.moveaxis(joined[:, :, anchors - 1], 2, 1)])
        residuals = np.full((len(values), len(anchors), values.shape[1]), np.nan)
        for i, horizon in enumerate(self._anchors):
            first = max(horizon - stored, 0)
            if first < len(values):
                forecast = all_points[stored + first - horizon : len(all_points) - horizon, i]
                residuals[first:, i] = values[first:] - forecast
        self._points = all_points[-self._anchors[-1] :]
        return residuals
