from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.base import Block
from forecaster.components.moments import Moments


def test_the_mean_forgets_by_half_in_a_halflife() -> None:
    moments = Moments(20)
    values = np.array([0.0] * 500 + [1.0] * 20)[:, None]
    after, _ = moments.step(moments.init(1), Block(np.array([0]), values, 3600))
    assert after["mean"][0] == pytest.approx(0.5, abs=1e-6)
