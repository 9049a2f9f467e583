"""Tests of the metrics that a job exports to Prometheus."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from forecaster.evaluation.drift import InputDrift
from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import ScoreSums
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import JobNumbers
from pipelines.sinks.prometheus import address_of, serve
from schemas.errors import ConfigError

COUNTS = Counts(
    rows_in=115,
    used=100,
    quarantined={"is not a number": 7, 'says "no"\n\\': 1},  # the second key has characters to escape
    duplicates=2,
    late=3,
    pending=2,
    outside=9,
    bad_files=1,
    windows=24,
    series_steps=240,
)
NUMBERS = JobNumbers(
    counts=COUNTS,
    watermark_us=10**15,
    series=12,
    live=10,
    state_bytes=4096,
    latency=Histogram().add(80.0).add(120.0).add(120.0).add(10_000_000.0),
    window_latency=Histogram().add(120.0),
    snapshot_at_s=1e9,
    snapshot_ms=350.0,
)


def scrape(port: int, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the value of each sample in a dict; a key is the name and the label values of the sample.

    The label values are in the order of the label names.
    """
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_scraped_metrics_equal_the_counts_of_the_job() -> None:
    with serve(0, lambda: NUMBERS) as port:
        found = samples(scrape(port))
    assert {
        outcome: found["statecast_rows_total", outcome]
        for outcome in ("used", "quarantined", "duplicate", "late", "outside")
    } == {"used": 100, "quarantined": 8, "duplicate": 2, "late": 3, "outside": 9}
    assert found["statecast_rows_in_total",] == 115
    assert found["statecast_rows_quarantined_total", "is not a number"] == 7
    assert found["statecast_rows_quarantined_total", "other"] == 1
    assert found["statecast_bad_files_total",] == 1
    assert found["statecast_windows_closed_total",] == 24
    assert found["statecast_series_steps_total",] == 240
    assert found["statecast_pending_rows",] == 2
    assert (found["statecast_series",], found["statecast_series_live",]) == (12, 10)
    assert found["statecast_state_bytes",] == 4096
    assert found["statecast_snapshot_seconds",] == 0.35
    assert found["statecast_watermark_lag_seconds",] == pytest.approx(
        found["statecast_snapshot_age_seconds",]
    )


def test_latencies_are_exported_as_a_histogram_of_seconds() -> None:
    with serve(0, lambda: NUMBERS) as port:
        found = samples(scrape(port))
    name = "statecast_shard_latency_seconds"
    buckets = {float(key[1]): n for key, n in found.items() if key[0] == f"{name}_bucket"}
    assert list(buckets.values()) == sorted(buckets.values())
    under = [max(n for end_s, n in buckets.items() if end_s < at_s) for at_s in (0.07, 0.11, 0.2, 700)]
    assert under == [0, 1, 3, 3]
    assert buckets[float("inf")] == found[f"{name}_count",] == 4
    assert found[f"{name}_sum",] == pytest.approx(10_000.32)
    assert found["statecast_latency_seconds_count",] == 1
    assert 30 < len(buckets) < 40


def test_each_scrape_reads_the_current_counts() -> None:
    used = iter(range(5, 100))
    with serve(0, lambda: JobNumbers(Counts(used=next(used)))) as port:
        assert [samples(scrape(port))["statecast_rows_total", "used"] for _ in range(3)] == [5, 6, 7]


def test_a_job_without_snapshots_exports_no_lag_or_snapshot_age() -> None:
    with serve(0, JobNumbers) as port:
        found = samples(scrape(port))
    assert found["statecast_rows_total", "used"] == 0
    assert ("statecast_watermark_lag_seconds",) not in found
    assert ("statecast_snapshot_age_seconds",) not in found


@pytest.mark.parametrize("numbers", [NUMBERS, JobNumbers()])
def test_exported_metrics_follow_the_openmetrics_format(numbers: JobNumbers) -> None:
    with serve(0, lambda: numbers) as port:
        text = scrape(port, "application/openmetrics-text; version=1.0.0")
    assert {family.name for family in open_metrics(text)} >= {"statecast_rows", "statecast_latency_seconds"}


def test_a_metrics_port_in_use_is_refused_in_one_line() -> None:
    with serve(0, JobNumbers) as port:
        with (
            pytest.raises(ConfigError, match=rf"^--metrics-port {port}: .*in use.*: choose another port$"),
            serve(port, JobNumbers),
        ):
            pass
        assert scrape(port)
    with serve(port, JobNumbers):  # the first server has ended, so its port is free
        pass


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_metrics_port_out_of_range_raises_config_error(port: int) -> None:
    with pytest.raises(ConfigError, match=f"--metrics-port {port}: not available"), serve(port, JobNumbers):
        pass


def test_two_jobs_of_one_process_export_separate_metrics() -> None:
    def job(used: int) -> Callable[[], JobNumbers]:
        return lambda: JobNumbers(Counts(used=used))

    with serve(0, job(1)) as one, serve(0, job(2)) as two:
        assert [samples(scrape(port))["statecast_rows_total", "used"] for port in (one, two)] == [1, 2]
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("statecast")]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("metrics.local:80", ("metrics.local", 80)),
    ],
)
def test_a_metrics_address_without_a_host_is_local(text: str, address: tuple[str, int]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "many", ":9464", "-1", "65536", "host:", "\u0663"])
def test_the_error_for_an_invalid_metrics_address_shows_the_format(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--metrics-port .*: write PORT or HOST:PORT"):
        address_of(text)


def test_score_metrics_are_labelled_with_model_and_horizon() -> None:
    scores = {"lstm-1": {1: ScoreSums(4, 3_000_000, -1_000_000, 4, 500_000, 3), 24: ScoreSums(2, 1_000_000)}}
    drift = {"value": InputDrift([20] * 10, [20.0] * 10, "a b", 0.5), "heat": InputDrift()}
    found = samples_of(replace(NUMBERS, counts=replace(COUNTS, scores=scores), drift=drift))
    assert found["statecast_forecasts_scored_total", "1", "lstm-1"] == 4
    assert found["statecast_absolute_error_total", "1", "lstm-1"] == 3.0
    assert found["statecast_pinball_loss_total", "1", "lstm-1"] == 0.5
    assert found["statecast_actuals_inside_total", "1", "lstm-1"] == 3
    assert found["statecast_bias", "1", "lstm-1"] == -0.25
    # At horizon 24, no scored forecast has an interval.
    assert ("statecast_actuals_inside_total", "24", "lstm-1") not in found
    assert found["statecast_input_drift", "value"] == pytest.approx(0.0)
    assert ("statecast_input_drift", "heat") not in found
    assert found["statecast_worst_input_drift", "value", "a b"] == 0.5


def samples_of(numbers: JobNumbers) -> dict[tuple[str, ...], float]:
    with serve(0, lambda: numbers) as port:
        return samples(scrape(port))


def test_alias_metric_is_1_if_the_stream_version_differs() -> None:
    numbers = JobNumbers(model_versions=("gru-2", "lstm-1"), model_notice="weather/3 is refused")
    with serve(0, lambda: numbers) as port:
        found = samples(scrape(port))
    assert found["statecast_model", "gru-2"] == found["statecast_model", "lstm-1"] == 1
    assert found["statecast_model_differs_from_alias",] == 1
