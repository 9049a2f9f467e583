"""Short names for the array types of the forecaster, and running totals over the rows of an array."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Ints32 = NDArray[np.int32]
Bools = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]
"""The arrays of one component by the names of its fields; axis 0 of each array is the series."""

# NumPy accumulates over rows column by column. From about this many columns on, a loop over the rows is
# faster: about twice as fast with 256 columns, and 4 to 60 times with 10,000.
_MANY_COLUMNS = 256


def accumulate_rows(function: np.ufunc, rows: NDArray[Any]) -> None:
    """Replace each row of an array by the result of ``function`` for all rows up to it, in place.

    The result is that of ``function.accumulate(rows, axis=0)``.

    Args:
        function: function of two rows, such as `numpy.add` for running sums.
        rows: ``[T, ...]``, changed in place.
    """
    if rows[:1].size < _MANY_COLUMNS:
        function.accumulate(rows, axis=0, out=rows)
        return
    for before, row in pairwise(rows):
        function(before, row, out=row)
