"""Tests of the component `Drift`, which counts the recent values in each bucket of the training profile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forecaster.components.base import Block
from forecaster.components.drift import Drift
from tests.fleets import HOUR

EDGES = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 9)
DRIFT = Drift(("value",))


def block_of(values: list[float], start: int = 1) -> Block:
    return Block(np.array([start]), np.array(values)[:, None], HOUR, edges=EDGES)


def counts_after(block: Block) -> list[int]:
    own, _ = DRIFT.step(DRIFT.init(1), block)
    return [int(count) for count in own["counts"][0, 0]]


def test_each_value_is_counted_in_the_bucket_containing_it() -> None:
    found = counts_after(block_of([0.5, 1.0, 1.5, 9.0, 1e300, -1e300, np.nan]))
    assert found == [2, 2, 0, 0, 0, 0, 0, 0, 0, 2]


def test_a_series_without_a_profile_has_no_counts() -> None:
    assert sum(counts_after(replace(block_of([1.0] * 5), edges=np.full_like(EDGES, np.nan)))) == 0
    assert sum(counts_after(replace(block_of([1.0] * 5), edges=np.empty(0, np.float32)))) == 0


def test_drift_counts_are_halved_every_336_windows() -> None:
    """The halving gives old values less weight than new ones, and keeps each count below 2 * 336."""
    assert counts_after(block_of([0.0] * 8, start=330)) == [5, *[0] * 9]
    assert max(counts_after(block_of([0.0] * 10_000))) < 672
