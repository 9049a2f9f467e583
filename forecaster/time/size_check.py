"""A check that values are small enough for their squares to fit into float64."""

from __future__ import annotations

import numpy as np

from forecaster.time.windows import Windows
from schemas.errors import DataError

_LARGEST = 1e150  # a window may be the sum of many rows, each of which is at most `observations.LARGEST`


def check_size(windows: Windows) -> None:
    """Raise if the square of a value or covariate would overflow: rows are bounded, sums of rows are not.

    Raises:
        DataError: a value is too large, or infinite; the message names the series.
    """
    for covariate, values in (("", windows.values), *windows.past.items()):
        largest = np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
        if (largest > _LARGEST).any():
            name = windows.series_ids[int(largest.argmax())]
            where = f"series {name!r}" + (f", covariate {covariate!r}," if covariate else "")
            raise DataError(
                f"{where} reaches {largest.max():g}, whose square leaves no room in a float64: take it out, "
                "or divide it by a power of ten"
            )
