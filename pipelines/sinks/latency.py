"""Latencies counted by size, in as many numbers however many there are, so that they add up over shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 148
"""Buckets of a `Histogram`: to 10 minutes."""

_LEAST_MS, _RATIO = 0.5, 1.1  # a quantile is off by 5 % at the most


@dataclass(frozen=True)
class Histogram:
    """Latencies by bucket: bucket ``i`` is ``[0.5 * 1.1**(i-1), 0.5 * 1.1**i)`` milliseconds.

    Attributes:
        buckets: how many by bucket; those that are absent hold none.
        sum_ms: of all.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    sum_ms: float = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.buckets.values())

    def add(self, ms: float) -> Histogram:
        """With one more."""
        bucket = math.floor(math.log(max(ms, _LEAST_MS) / _LEAST_MS, _RATIO)) + 1 if ms > _LEAST_MS else 0
        bucket = min(bucket, BUCKETS - 1)
        return Histogram(
            {**self.buckets, bucket: self.buckets.get(bucket, 0) + 1}, self.sum_ms + max(ms, 0.0)
        )

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        buckets = {
            b: self.buckets.get(b, 0) + other.buckets.get(b, 0) for b in {*self.buckets, *other.buckets}
        }
        return Histogram(buckets, self.sum_ms + other.sum_ms)

    def values_ms(self) -> list[float]:
        """The middle of its bucket for each that there is: for a picture."""
        return [middle_ms(bucket) for bucket in sorted(self.buckets) for _ in range(self.buckets[bucket])]

    def quantile_ms(self, level: float) -> float:
        """What a share ``level`` of all stayed at or under, within 5 %; NaN where there are none."""
        wanted, seen = level * self.count, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return middle_ms(bucket)
        return float("nan")


def upper_ms(bucket: int) -> float:
    """The end of a bucket of a `Histogram`."""
    return _LEAST_MS * _RATIO**bucket


def middle_ms(bucket: int) -> float:
    """The middle of a bucket of a `Histogram`, on its logarithmic scale."""
    return upper_ms(bucket) / math.sqrt(_RATIO)
