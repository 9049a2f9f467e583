"""Make blocks of windows for tests of components, and step them through `Moments` and `Ring`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forecaster.arrays import Arrays, Floats
from forecaster.components.base import Block, Component, Outputs
from forecaster.components.moments import Moments
from forecaster.components.ring import Ring
from tests.fleets import HOUR

RING = 200


def block_of(values: Floats, horizon: int = 1, quantiles: int = 3, start: int = 0) -> Block:
    """Return a block of hourly ``values`` ``[T, S]`` whose forecasts are the last value of each series."""
    windows, series = values.shape
    out = Outputs.empty(quantiles, 0, windows, series, horizon)
    block = Block(np.array([start]), values, HOUR, out=out)
    block = step_through((Moments(168, 0.0), Ring(RING, RING)), block)[1]
    out.forecast[:] = block.last[None, :, :, None]
    return block


def step_through(components: Sequence[Component], block: Block) -> tuple[dict[str, Arrays], Block]:
    """Step components from their initial arrays through a block; return the changed arrays and block."""
    after = {}
    for component in components:
        arrays = component.init(block.values.shape[1])
        after[component.name], block = component.step(arrays, block)
    return after, replace(block)
