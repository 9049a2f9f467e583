"""Intervals for forecasts that are points, so that a baseline is judged by its intervals, too.

Letters: T windows, S series, N horizon, Q quantiles, M members, A anchors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forecaster.arrays import Floats
from forecaster.components.base import Block, Outputs
from forecaster.components.experts.stacking import anchors_of
from forecaster.components.intervals import Intervals
from forecaster.time.frequency import Frequency


class PointIntervals:
    """Quantiles around the points of some members, by how far off each one was before, as windows close.

    They are those of `forecaster.components.intervals`, which the combined forecast has: the members lie side
    by side as if they were series of their own.

    Args:
        members: names of the members.
        levels: Q quantile levels, rising, 0.5 among them.
        horizon: N.
        scale: ``[S]`` how much each series moves.
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
        self._anchors = anchors_of(horizon)
        self._said = np.empty((0, len(self._anchors), len(self._scale)))  # by the last N windows

    def step(self, start: int, values: Floats, points: Mapping[str, Floats]) -> dict[str, Floats]:
        """The quantiles ``[Q, T, S, N]`` of every member in a block of windows.

        Args:
            start: index of the first window, the one after that of the last call.
            values: ``[T, S]`` what came, NaN where missing.
            points: ``[T, S, N]`` of each member; NaN where it has none.
        """
        said = np.concatenate([points[name] for name in self._members], axis=1)  # [T, M * S, N]
        values = np.tile(values, len(self._members))
        out = Outputs.empty(len(self._intervals.levels), 0, *said.shape)
        out.forecast[:] = np.nan_to_num(said)
        block = Block(
            np.array([start]),
            values,
            self._freq,
            scale=np.broadcast_to(self._scale, values.shape),
            out=out,
            residuals=self._residuals(values, said),
        )
        self._own, block = self._intervals.step(self._own, block)
        out.forecast[:, np.isnan(said)] = np.nan
        parts = np.split(out.forecast, len(self._members), axis=2)
        return dict(zip(self._members, parts, strict=True))

    def _residuals(self, values: Floats, said: Floats) -> Floats:
        """``[T, A, M * S]`` what came less what was said of it; keeps what is said for the blocks to come."""
        anchors = np.array(self._anchors)
        before = len(self._said)
        whole = np.concatenate([self._said, np.moveaxis(said[:, :, anchors - 1], 2, 1)])
        residuals = np.full((len(values), len(anchors), values.shape[1]), np.nan)
        for i, ago in enumerate(self._anchors):
            first = max(ago - before, 0)
            if first < len(values):
                residuals[first:, i] = values[first:] - whole[before + first - ago : len(whole) - ago, i]
        self._said = whole[-self._anchors[-1] :]
        return residuals
