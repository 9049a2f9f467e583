"""Classes of series by how often their values are not 0, and by how much these values vary.

The classes and their limits are from Syntetos, Boylan & Croston 2005, "On the categorization of demand
patterns": the mean distance of two values that are not 0 (1.32 windows) and the squared coefficient of
variation of these values (0.49).

Letters: T windows, S series.
"""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Floats

_LONG_INTERVAL, _VARIABLE = 1.32, 0.49


def demand_classes(values: Floats) -> list[str]:
    """Return the class of each series, such as ``smooth``; missing values do not count.

    ``values`` is ``[T, S]``. ``smooth`` and ``erratic`` series are rarely 0, ``intermittent`` and ``lumpy``
    series are often 0; the sizes of erratic and lumpy series vary much. A series without a value other than 0
    is ``zero``.
    """
    known = ~np.isnan(values)
    is_size = known & (values != 0)
    sizes, windows = is_size.sum(axis=0), known.sum(axis=0)
    per_size = 1 / np.maximum(sizes, 1)
    mean = np.where(is_size, values, 0.0).sum(axis=0) * per_size
    variance = np.where(is_size, np.square(values - mean), 0.0).sum(axis=0) * per_size
    is_rare = windows * per_size > _LONG_INTERVAL
    is_variable = variance > _VARIABLE * np.square(mean)
    names = (("smooth", "erratic"), ("intermittent", "lumpy"))
    return [
        names[bool(rare)][bool(varies)] if count else "zero"
        for rare, varies, count in zip(is_rare, is_variable, sizes, strict=True)
    ]
