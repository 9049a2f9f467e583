"""Blocks of windows for tests of components, with what the components before them add."""

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
    """``values`` ``[T, S]`` in hourly windows, with room for forecasts, which are the last value."""
    windows, series = values.shape
    out = Outputs.empty(quantiles, 0, windows, series, horizon)
    block = Block(np.array([start]), values, HOUR, out=out)
    block = through((Moments(168, 0.0), Ring(RING, RING)), block)[1]
    out.forecast[:] = block.last[None, :, :, None]
    return block


def through(components: Sequence[Component], block: Block) -> tuple[dict[str, Arrays], Block]:
    """A block stepped by components from their beginning."""
    after = {}
    for component in components:
        own = component.init(block.values.shape[1])
        after[component.name], block = component.step(own, block)
    return after, replace(block)
