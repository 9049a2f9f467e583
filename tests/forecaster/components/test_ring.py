"""Tests of the ring, the circular array that holds the last values of each series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.components.base import Block
from forecaster.components.ring import Ring, in_order
from tests.fleets import HOUR


@given(
    ring=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    start=st.integers(0, 40),
)
def test_a_full_ring_overwrites_its_oldest_value(ring: int, cuts: list[int], start: int) -> None:
    windows = start + np.arange(sum(cuts))
    fleet: Floats = np.stack([windows, -windows], axis=1).astype(np.float64)
    component, arrays, first = Ring(ring, ring), Ring(ring, ring).init(2), 0
    for length in cuts:
        values = fleet[first : first + length]
        array = arrays["values"]
        arrays, block = component.step(arrays, Block(np.array([start + first]), values, HOUR))
        assert np.shares_memory(arrays["values"], array)
        expected = np.arange(start + first - ring, start + first + length) * 1.0
        np.testing.assert_array_equal(block.history[:, 0], np.where(expected < start, np.nan, expected))
        first += length
    for window in windows[-ring:]:
        assert arrays["values"][:, window % ring].tolist() == [window, -window]
    clock = np.full(2, windows[-1])
    last = np.arange(windows[-1] - ring + 1, windows[-1] + 1) * 1.0
    ordered = in_order(arrays["values"], clock)
    np.testing.assert_array_equal(ordered[0], np.where(last < start, np.nan, last))


def test_padding_is_not_written_to_the_ring() -> None:
    ring = Ring(4, 2)
    arrays = {"values": np.array([[10.0, 11.0, 12.0, 13.0]] * 2)}
    values = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, np.nan]])
    arrays, _ = ring.step(arrays, Block(np.array([4, 6]), values, HOUR, np.array([2, 1])))
    assert arrays["values"].tolist() == [[1.0, 3.0, 12.0, 13.0], [10.0, 11.0, 2.0, 13.0]]


def test_the_longest_lag_may_equal_the_ring_length() -> None:
    ring = Ring(3, 3)
    arrays, _ = ring.step(ring.init(1), Block(np.array([0]), np.array([[1.0], [2.0], [3.0]]), HOUR))
    _, block = ring.step(arrays, Block(np.array([3]), np.array([[4.0]]), HOUR))
    assert block.history[:, 0].tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0])
