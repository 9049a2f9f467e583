"""Tests of the histogram of latencies."""

from __future__ import annotations

import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sinks.latency import BUCKETS, Histogram, upper_ms

latencies = st.lists(st.floats(0, 500_000), max_size=60)


def histogram(values: list[float]) -> Histogram:
    return reduce(Histogram.add, values, Histogram())


@given(st.lists(latencies, max_size=4))
def test_summed_histograms_equal_the_histogram_of_all_latencies(parts: list[list[float]]) -> None:
    together = sum(map(histogram, parts), Histogram())
    everything = histogram([ms for part in parts for ms in part])
    assert together.buckets == everything.buckets
    assert together.sum_ms == pytest.approx(everything.sum_ms)


@given(latencies.filter(bool), st.floats(0.01, 1))
def test_latency_quantiles_are_within_5_percent_or_half_millisecond(
    values: list[float], level: float
) -> None:
    found = histogram(values)
    exact_ms = sorted(values)[max(math.ceil(level * found.count) - 1, 0)]
    assert found.quantile_ms(level) == pytest.approx(exact_ms, rel=0.05, abs=0.5)


@given(latencies.filter(bool))
def test_each_latency_lies_within_its_bucket(values: list[float]) -> None:
    for ms in values:
        (bucket,) = Histogram().add(ms).buckets
        assert ms <= upper_ms(bucket) * (1 + 1e-9)
        assert bucket == 0 or ms >= upper_ms(bucket - 1) * (1 - 1e-9)


def test_a_latency_histogram_has_a_limited_number_of_buckets() -> None:
    found = histogram([-5.0, 0.0, *(1.01**i for i in range(4000)), 1e300])
    assert found.count == 4003
    assert set(found.buckets) <= set(range(BUCKETS))
    assert found.quantile_ms(1.0) == pytest.approx(600_000, rel=0.1)


def test_the_quantile_of_an_empty_histogram_is_nan() -> None:
    assert math.isnan(Histogram().quantile_ms(0.5))
