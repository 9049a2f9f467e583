"""State tables of format 1, the first design's: one column an array, and no components.

Their ring was written oldest first, and they did not say how long a series had had no row.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from forecaster.columns import array_of
from forecaster.components.base import Arrays, Field, Ints
from forecaster.components.ring import in_slots
from forecaster.windows import MICROSECONDS

_SHAPE_KEY = b"statecast.state.shape"


def read(table: pa.Table) -> tuple[str, int, tuple[str, ...], Ints, Ints, dict[str, Arrays]]:
    """The fields of a `forecaster.state.State`, in their order, from a format 1 table.

    ``silent`` is taken to be the age of the last value. Where windows without rows count as zero (which are
    values), the true number is not in the table, and a gap is counted from the table on.
    """
    *numbers, version = table.schema.metadata[_SHAPE_KEY].decode().split(",", 5)
    freq_s, layers, width, ring, cells = map(int, numbers)

    def lists(name: str, dtype: str, *shape: int) -> np.ndarray:
        return array_of(table, name, Field(dtype, shape))

    clock = array_of(table, "clock", Field("int64")) // (freq_s * MICROSECONDS) - 1
    names = ("observed", "mean", "variance", "last", "age")
    moments: Arrays = {
        name: array_of(table, name, Field("int64" if name in ("observed", "age") else "float64"))
        for name in names
    }
    network: Arrays = {"hidden": lists("hidden", "float32", layers, width)}
    if cells:
        network["cell"] = lists("cell", "float32", layers, width)
    silent = np.where(moments["observed"] > 0, moments["age"], 0)
    rings: Arrays = {"values": in_slots(lists("ring", "float64", ring), clock)}
    ids = tuple(table["series_id"].to_pylist())
    return version, freq_s, ids, clock, silent, {"moments": moments, "ring": rings, "network": network}
