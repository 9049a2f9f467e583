"""Count the recent values of each series and input in each bucket of the training profile.

`forecaster.evaluation.drift` computes the drift of the inputs from these counts.

Letters: T windows, S series, I inputs, B buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from forecaster.arrays import Arrays, Bools, Ints
from forecaster.components.base import Block, Field
from forecaster.components.profile import BUCKETS, bucket_of

# All counts are halved every 336 windows: recent values count most, and each count stays below 672.
_HALVED_EVERY = 336


@dataclass(frozen=True)
class Drift:
    """Counts the recent values of each series and input in each bucket of the training profile.

    In every 336th window the counts are halved before the window's values are added, so older values count
    less. The counts of a series without a training profile stay 0.

    Attributes:
        inputs: I names, the value first, then the observed covariates.
    """

    inputs: tuple[str, ...]
    name: str = "drift"
    format_version: int = 1
    reads = frozenset[str]()
    writes = frozenset[str]()

    def spec(self) -> Mapping[str, Field]:
        """Return the field ``counts``, the number of recent values in each bucket."""
        return {"counts": Field("uint16", (len(self.inputs), BUCKETS))}

    def init(self, series: int) -> Arrays:
        """Return the initial counts, which are 0."""
        return {"counts": np.zeros((series, len(self.inputs), BUCKETS), np.uint16)}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Count the values of the block in their buckets; return the block unchanged."""
        counts = own["counts"]
        if not block.edges.size:
            return own, block
        values = block.values[:, :, None]
        if len(self.inputs) > 1:
            values = np.concatenate([values, block.past], axis=2)
        bucket = bucket_of(values, block.edges)
        known = ~np.isnan(values) & ~np.isnan(block.edges[:, :, 0])
        halved = (block.start + np.arange(len(values))[:, None]) % _HALVED_EVERY == 0
        halved = halved & block.counts
        firsts = np.flatnonzero(halved.any(axis=1)).tolist()
        for first, stop in pairwise(sorted({0, *firsts, len(values)})):
            counts[np.broadcast_to(halved[first], len(counts))] //= 2
            counts += _counts(bucket[first:stop], known[first:stop])
        return {"counts": counts}, block


def _counts(bucket: Ints, known: Bools) -> Ints:
    """Return the number of known values in each bucket, ``[S, I, B]``.

    Args:
        bucket: ``[T, S, I]``.
        known: ``[T, S, I]``.
    """
    _, series, inputs = bucket.shape
    place = np.arange(series * inputs).reshape(series, inputs) * BUCKETS + bucket
    counts: Ints = np.bincount(place[known], minlength=series * inputs * BUCKETS)
    return counts.reshape(series, inputs, BUCKETS).astype(np.uint16)
