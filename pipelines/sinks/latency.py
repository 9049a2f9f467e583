"""Define a histogram of latencies with a fixed number of buckets; histograms can be summed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 148
"""Number of buckets of a `Histogram`, enough for latencies of up to 10 minutes."""

_LEAST_MS, _RATIO = 0.5, 1.1  # with buckets of this ratio, the error of a quantile is at most 5 %


@dataclass(frozen=True)
class Histogram:
    """Latencies counted by bucket: bucket ``i`` is ``[0.5 * 1.1**(i-1), 0.5 * 1.1**i)`` milliseconds.

    Bucket 0 also counts all shorter latencies, and the last bucket all longer latencies.

    Attributes:
        buckets: count of each bucket; missing buckets are empty.
        sum_ms: sum of all latencies.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    sum_ms: float = 0.0

    @property
    def count(self) -> int:
        """The number of latencies in the histogram."""
        return sum(self.buckets.values())

    def add(self, ms: float) -> Histogram:
        """Return the histogram with one more latency."""
        bucket = math.floor(math.log(max(ms, _LEAST_MS) / _LEAST_MS, _RATIO)) + 1 if ms > _LEAST_MS else 0
        bucket = min(bucket, BUCKETS - 1)
        return Histogram(
            {**self.buckets, bucket: self.buckets.get(bucket, 0) + 1}, self.sum_ms + max(ms, 0.0)
        )

    def __add__(self, other: Histogram) -> Histogram:
        """Return the sum of two histograms."""
        buckets = {
            b: self.buckets.get(b, 0) + other.buckets.get(b, 0) for b in {*self.buckets, *other.buckets}
        }
        return Histogram(buckets, self.sum_ms + other.sum_ms)

    def values_ms(self) -> list[float]:
        """Return all latencies in milliseconds, ascending; each is rounded to the middle of its bucket."""
        return [middle_ms(bucket) for bucket in sorted(self.buckets) for _ in range(self.buckets[bucket])]

    def quantile_ms(self, level: float) -> float:
        """Return the quantile at ``level`` in milliseconds, within 5 %; NaN if the histogram is empty."""
        wanted, seen = level * self.count, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return middle_ms(bucket)
        return float("nan")


def upper_ms(bucket: int) -> float:
    """Return the upper end of a bucket of a `Histogram` in milliseconds."""
    return _LEAST_MS * _RATIO**bucket


def middle_ms(bucket: int) -> float:
    """Return the middle of a bucket of a `Histogram`, on its logarithmic scale, in milliseconds."""
    return upper_ms(bucket) / math.sqrt(_RATIO)
