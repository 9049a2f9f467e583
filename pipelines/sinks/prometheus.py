"""Serve a job's numbers over HTTP; each request of Prometheus gets the current numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import PARTS
from pipelines.sinks.counters import ROWS_BY_OUTCOME, TOTALS
from pipelines.sinks.latency import BUCKETS, Histogram, upper_ms
from pipelines.sinks.numbers import JobNumbers
from schemas.errors import ConfigError

_THIS_MACHINE, _LAST_PORT = "127.0.0.1", 65_535
# Four buckets are exported as one, so that Prometheus stores 38 buckets for a histogram, not 148.
_BUCKETS_IN_ONE = 4

_Values = float | None | Mapping[Any, float | None]


def address_of(text: str) -> tuple[str, int]:
    """Parse ``[HOST:]PORT``, and return the host and the port; the default host is this machine only.

    Raises:
        ConfigError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > _LAST_PORT or (colon and not host):
        raise ConfigError(f"--metrics-port {text}: write PORT or HOST:PORT, with PORT from 0 to {_LAST_PORT}")
    return host or _THIS_MACHINE, int(port)


@contextmanager
def serve(port: int, read: Callable[[], JobNumbers], address: str = _THIS_MACHINE) -> Iterator[int]:
    """Serve a job's numbers at ``http://ADDRESS:PORT/metrics`` while the ``with`` block runs.

    Args:
        port: port to listen on; 0 chooses a free one.
        read: returns the current numbers of the job; called from another thread.
        address: address to listen on; by default only this machine can connect.

    Yields:
        The port.

    Raises:
        ConfigError: the port is not available.
    """
    registry = CollectorRegistry()
    registry.register(_JobCollector(read))
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--metrics-port {port}: not available ({why}): choose another port") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _JobCollector(Collector):
    def __init__(self, read: Callable[[], JobNumbers]) -> None:
        self.read = read

    def describe(self) -> list[Metric]:
        """Return no metrics, so that Prometheus does not call ``read`` to register this collector."""
        return []

    def collect(self) -> Iterator[Metric]:
        return metrics(self.read(), time.time())


def metrics(numbers: JobNumbers, now_s: float) -> Iterator[Metric]:
    """Yield a job's numbers as Prometheus metrics.

    In a resumed job, the counts of rows include earlier runs; the latencies are of this run only.

    Args:
        numbers: the job's numbers.
        now_s: wall clock, seconds since 1970.
    """
    c = numbers.counts
    for name, (what, value) in TOTALS.items():
        yield _counter(name, what, value(c))
    outcomes = {outcome: value(c) for outcome, value in ROWS_BY_OUTCOME.items()}
    yield _counter("rows", "Rows by outcome.", outcomes, "outcome")
    yield _counter("rows_quarantined", "Rows that validation rejected.", c.quarantined, "reason")
    yield _gauge("quarantined_share", "Share of the rows that validation rejected.", c.quarantined_share)
    yield _gauge("pending_rows", "Rows whose window is still open.", c.pending)
    yield _gauge("series", "Series with state.", numbers.series)
    yield _gauge("series_live", "Series that are being forecast.", numbers.live)
    yield _gauge("state_bytes", "Size of the state's arrays.", numbers.state_bytes)
    models = dict.fromkeys(numbers.model_versions, 1.0)
    yield _gauge("model", "Model versions of the shards; each is 1.", models, "version")
    differs = float(bool(numbers.model_notice))
    yield _gauge("model_differs_from_alias", "1 if the alias names another version than is used.", differs)
    lag_s = numbers.watermark_lag_s(now_s)
    yield _gauge("watermark_lag_seconds", "How far the watermark is behind the clock.", lag_s)
    age_s = now_s - numbers.snapshot_at_s if numbers.snapshot_at_s else None
    yield _gauge("snapshot_age_seconds", "Age of the oldest of the shards' last snapshots.", age_s)
    took_s = numbers.snapshot_ms / 1000 if numbers.snapshot_at_s else None
    yield _gauge("snapshot_seconds", "Duration of the longest of the shards' last snapshots.", took_s)
    yield from _quality(c)
    indices = {name: drift.index for name, drift in numbers.drift.items()}
    yield _gauge("input_drift", "Population stability index of an input.", indices, "input")
    worst = {
        (name, drift.worst_series): drift.worst_index
        for name, drift in numbers.drift.items()
        if drift.worst_series is not None
    }
    what = "Population stability index of the series with the largest one."
    yield _gauge("worst_input_drift", what, worst, "input", "series")
    what = "Time from when a window's rows were due until all its forecasts were on disk."
    yield _histogram("latency_seconds", what, numbers.window_latency)
    what = "Time from when rows were due until a shard's forecasts were on disk."
    yield _histogram("shard_latency_seconds", what, numbers.latency)


def _quality(counts: Counts) -> Iterator[Metric]:
    """Yield Prometheus metrics of the errors of scored forecasts, by model version and horizon.

    Most of the metrics are counters, so a query can compute a score for any span of time. MASE over the last
    day is ``increase(statecast_absolute_error_total[1d]) / increase(statecast_forecasts_scored_total[1d])``.
    """
    sums = {
        (version, str(horizon)): one
        for version, by_horizon in counts.scores.items()
        for horizon, one in sorted(by_horizon.items())
    }
    labels = ("model", "horizon")
    scored = {key: one.scored for key, one in sums.items()}
    yield _counter("forecasts_scored", "Forecasts whose actuals were observed.", scored, *labels)
    absolute = {key: one.absolute / PARTS for key, one in sums.items()}
    yield _counter("absolute_error", "Sum of absolute errors, in units.", absolute, *labels)
    losses = {key: one.pinball / PARTS for key, one in sums.items() if one.intervals}
    yield _counter("pinball_loss", "Sum of mean pinball losses, in units.", losses, *labels)
    inside = {key: one.inside for key, one in sums.items() if one.intervals}
    yield _counter("actuals_inside", "Actuals inside the outermost quantiles.", inside, *labels)
    bias = {key: one.bias for key, one in sums.items()}
    yield _gauge("bias", "Mean of actual less forecast since the start, in units.", bias, *labels)


def _counter(name: str, what: str, values: _Values, *labels: str) -> Metric:
    return _with_samples(CounterMetricFamily(f"statecast_{name}", what, labels=labels), values)


def _gauge(name: str, what: str, values: _Values, *labels: str) -> Metric:
    return _with_samples(GaugeMetricFamily(f"statecast_{name}", what, labels=labels), values)


def _with_samples(family: CounterMetricFamily | GaugeMetricFamily, values: _Values) -> Metric:
    """Add a sample to a Prometheus metric for each value that is not None, and return the metric.

    The keys of ``values`` are the values of the labels; a metric without labels has only one value.
    """
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        if value is not None:
            family.add_metric([key] if isinstance(key, str) else [*key], value)
    return family


def _histogram(name: str, what: str, latency: Histogram) -> Metric:
    """Convert a histogram of latencies to a Prometheus histogram; join every four buckets into one."""
    ends, seen = [], 0
    for bucket in range(BUCKETS):
        seen += latency.buckets.get(bucket, 0)
        if bucket == BUCKETS - 1:
            ends.append(("+Inf", float(seen)))
        elif bucket % _BUCKETS_IN_ONE == 0:
            ends.append((f"{upper_ms(bucket) / 1000:.6g}", float(seen)))
    return HistogramMetricFamily(f"statecast_{name}", what, buckets=ends, sum_value=latency.sum_ms / 1000)
