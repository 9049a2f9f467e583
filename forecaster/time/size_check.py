"""A check that values are small enough for their squares to fit into float64."""

from __future__ import annotations

import numpy as np

from forecaster.time.windows import Windows
from schemas.errors import DataError

# Values up to this number are accepted, because float64 can hold their squares.
# A window's value can be a sum, so it can exceed the limit for a single row, `observations.LARGEST`.
_LARGEST = 1e150


def check_size(windows: Windows) -> None:
    """Raise an error if a value or observed covariate is beyond 1e150: its square may not fit into float64.

    Validation bounds the values of rows, but not the sums of rows in a window.

    Raises:
        DataError: a value is too large, or infinite; the message names the series.
    """
    for covariate, values in (("", windows.values), *windows.past.items()):
        largest = np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
        if (largest > _LARGEST).any():
            name = windows.series_ids[int(largest.argmax())]
            where = f"series {name!r}" + (f", covariate {covariate!r}," if covariate else "")
            raise DataError(
                f"{where} reaches {largest.max():g}, which is too large to compute with: remove it, "
                "or divide all values by a power of ten"
            )
