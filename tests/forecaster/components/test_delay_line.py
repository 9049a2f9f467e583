"""Tests of the delay line, which stores forecasts until the actual of their window is observed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecaster.components.delay_line import store_forecasts, stored_before


@given(st.data())
def test_delayed_forecasts_do_not_depend_on_block_sizes(data: st.DataObject) -> None:
    ago, series = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    rows = ago + data.draw(st.integers(0, 3))
    blocks = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    # If ``different_starts`` is True, no two series begin at the same window; otherwise, all begin at 100.
    different_starts = data.draw(st.booleans())
    start = np.arange(series) * 10 + 100 if different_starts else np.array([100])
    values = np.random.default_rng(0).normal(size=(sum(blocks), 2, series))
    store, found, done = np.full((rows, 2, series), np.nan), [], 0
    for windows in blocks:
        new = values[done : done + windows]
        found.append(stored_before(store, new, start + done, ago))
        store_forecasts(store, new, start + done, None)
        done += windows
    expected = np.concatenate([np.full((ago, 2, series), np.nan), values])[: len(values)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_the_delay_line_does_not_store_padding() -> None:
    """A series with fewer windows than its block has padding in the last rows of the block."""
    store = np.zeros((4, 1, 2))
    store_forecasts(
        store, np.array([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]]), np.array([8, 9]), np.array([1, 3])
    )
    np.testing.assert_array_equal(store[:, 0, 0], [1, 0, 0, 0])  # series 0 has a value in window 8 only
    np.testing.assert_array_equal(store[:, 0, 1], [0, 1, 2, 3])  # series 1 has windows 9 to 11
