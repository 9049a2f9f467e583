"""Tests of the running totals over the rows of an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from forecaster import arrays
from forecaster.arrays import accumulate_rows

MANY = arrays._MANY_COLUMNS


def with_gaps(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers as floats, with NaN for every number below 0."""
    return np.where(rows < 0, np.nan, rows)


@pytest.mark.parametrize("function", [np.add, np.maximum, np.fmin, np.fmax])
@given(
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, MANY - 1, MANY, MANY + 1])),
    seed=st.integers(0, 99),
)
def test_accumulate_rows_gives_the_result_of_numpy(
    function: np.ufunc, shape: tuple[int, int], seed: int
) -> None:
    whole = np.random.default_rng(seed).integers(-9, 9, shape)
    for rows in (whole, with_gaps(whole), whole.reshape(shape[0], 1, -1)):
        expected = function.accumulate(rows, axis=0)
        accumulate_rows(function, rows)
        assert np.array_equal(rows, expected, equal_nan=rows.dtype.kind == "f")
