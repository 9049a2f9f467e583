"""Short names for the array types of the forecaster."""

from __future__ import annotations

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
