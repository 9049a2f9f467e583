"""The anchor horizons, at which forecasts are stored until their actuals are observed.

Letters: N horizon, A anchors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from forecaster.arrays import Floats32

_ANCHORS = (1, 2, 4, 8, 16, 24, 48, 96, 192, 384, 768)


def anchor_horizons(horizon: int) -> tuple[int, ...]:
    """Return the anchor horizons: forecasts are stored at these, and other horizons are interpolated."""
    return (*(a for a in _ANCHORS if a < horizon), horizon)


@lru_cache(maxsize=16)
def by_horizon(anchors: tuple[int, ...], horizon: int) -> Floats32:
    """Return the matrix that interpolates values at the anchors to all horizons, linearly in log horizon.

    It is ``[N, A]``.
    """
    ahead, at = np.log(np.arange(1, horizon + 1)), np.log(anchors)
    one = [np.interp(ahead, at, row) for row in np.eye(len(anchors))]
    return np.stack(one, axis=1).astype(np.float32)
