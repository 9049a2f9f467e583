"""A job's numbers for Prometheus, made when it asks, from the numbers as they are then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipelines.sinks.latency import BUCKETS, Histogram, upper_ms
from pipelines.sinks.numbers import JobNumbers
from schemas.errors import ConfigError

_THIS_MACHINE, _LAST_PORT = "127.0.0.1", 65_535
_BUCKETS_IN_ONE = 4  # an end is 1.46 times the one before: 37 series of each histogram are enough to store


def address_of(text: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; without a host this machine's own callers are answered.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > _LAST_PORT or (colon and not host):
        raise ConfigError(f"--metrics-port {text}: write PORT or HOST:PORT, a port being 0 to {_LAST_PORT}")
    return host or _THIS_MACHINE, int(port)


@contextmanager
def serve(port: int, read: Callable[[], JobNumbers], address: str = _THIS_MACHINE) -> Iterator[int]:
    """Serves ``http://ADDRESS:PORT/metrics`` while the block runs.

    Args:
        port: 0 takes any that is free.
        read: the job's numbers as they are now; called from another thread.
        address: whose callers are answered; by default this machine's own.

    Yields:
        The port.

    Raises:
        ConfigError: the port cannot be had; one line.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(read))
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--metrics-port {port}: cannot be had ({why}): name another port") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Numbers(Collector):
    def __init__(self, read: Callable[[], JobNumbers]) -> None:
        self.read = read

    def describe(self) -> list[Metric]:
        """None: what it collects has names of its own, and no job need run to register it."""
        return []

    def collect(self) -> Iterator[Metric]:
        return metrics(self.read(), time.time())


def metrics(numbers: JobNumbers, now_s: float) -> Iterator[Metric]:
    """A job's numbers as Prometheus knows such things.

    Counts of rows go on where a resumed job left them; latencies are those of this run.

    Args:
        numbers: the job's.
        now_s: wall clock, seconds since 1970.
    """
    c = numbers.counts
    yield _counter("rows_in", "Rows read inside the job's time bounds.", c.rows_in)
    outcomes = {
        "used": c.used,
        "quarantined": c.rejected,
        "duplicate": c.duplicates,
        "late": c.late,
        "outside": c.outside,
    }
    yield _counters("rows", "Rows by what became of them.", "outcome", outcomes)
    yield _counters("rows_quarantined", "Rows that are no observations.", "reason", dict(c.quarantined))
    yield _gauge("quarantined_share", "Share of the rows that are no observations.", c.quarantined_share)
    yield _counter("rows_replaced", "Rows that a later row of another value took the place of.", c.replaced)
    yield _counter("bad_files", "Files that were not read.", c.bad_files)
    yield _counter("windows_closed", "Windows closed.", c.windows)
    yield _counter("series_steps", "Steps of a series by a window.", c.series_steps)
    yield _counter("cold_starts", "Series that began anew after windows.max_gap.", c.cold_starts)
    yield _gauge("pending_rows", "Rows whose window is still open.", c.pending)
    yield _gauge("series", "Series with state.", numbers.series)
    yield _gauge("series_live", "Series that are being forecast.", numbers.live)
    yield _gauge("state_bytes", "Size of the state's arrays.", numbers.state_bytes)
    lag_s = numbers.watermark_lag_s(now_s)
    yield _gauge("watermark_lag_seconds", "How far the watermark is behind the clock.", lag_s)
    age_s = now_s - numbers.snapshot_at_s if numbers.snapshot_at_s else None
    yield _gauge("snapshot_age_seconds", "Age of the oldest of the shards' last snapshots.", age_s)
    took_s = numbers.snapshot_ms / 1000 if numbers.snapshot_at_s else None
    yield _gauge("snapshot_seconds", "What the longest of the last snapshots took.", took_s)
    yield _histogram(
        "latency_seconds", "From a window's rows due to all its forecasts on disk.", numbers.whole
    )
    yield _histogram(
        "shard_latency_seconds", "From rows due to a shard's forecasts on disk.", numbers.latency
    )


def _counter(name: str, what: str, value: int) -> Metric:
    return CounterMetricFamily(f"statecast_{name}", what, value=value)


def _counters(name: str, what: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"statecast_{name}", what, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, what: str, value: float | None) -> Metric:
    """A gauge; absent while there is no such thing."""
    family = GaugeMetricFamily(f"statecast_{name}", what, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family


def _histogram(name: str, what: str, latency: Histogram) -> Metric:
    """How many stayed at or under each end: that of every fourth of our buckets, and of the last none."""
    ends, seen = [], 0
    for bucket in range(BUCKETS):
        seen += latency.buckets.get(bucket, 0)
        if bucket == BUCKETS - 1:
            ends.append(("+Inf", float(seen)))
        elif bucket % _BUCKETS_IN_ONE == 0:
            ends.append((f"{upper_ms(bucket) / 1000:.6g}", float(seen)))
    return HistogramMetricFamily(f"statecast_{name}", what, buckets=ends, sum_value=latency.sum_ms / 1000)
