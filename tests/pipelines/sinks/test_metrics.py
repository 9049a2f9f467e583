from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.runners.prism import PrismServer, prism_options
from pipelines.sinks.metrics import counter, tallied


def test_what_travels_to_a_worker_is_counted_for_the_job_that_built_it() -> None:
    with tallied() as one:
        travelled = pickle.loads(pickle.dumps(counter("rows")))  # noqa: S301 - Beam's way
        with tallied() as other:
            counter("rows").inc(5)
        travelled.inc(2)
        travelled.inc()
        assert one == {"rows": 3}
        assert other == {"rows": 5}
    travelled.inc()
    assert one == {"rows": 3}


def test_a_counter_of_no_job_is_a_metric_alone() -> None:
    counter("rows").inc()
    with tallied() as tally:
        assert not tally


def test_nothing_is_lost_between_threads() -> None:
    with tallied() as tally, ThreadPoolExecutor(8) as pool:
        rows = counter("rows")
        for _ in range(4000):
            pool.submit(rows.inc)
    assert tally == {"rows": 4000}


class _CountOnce(beam.DoFn):
    """Counts what comes at a time of its own: many bundles, each the first to report its counter."""

    def __init__(self, names: int) -> None:
        self.counters = [counter(f"c{i}") for i in range(names)]

    def process(self, number: int) -> None:
        self.counters[number % len(self.counters)].inc()


@pytest.mark.prism
def test_the_tally_of_a_job_on_prism_is_exact(tmp_path: Path) -> None:
    names, rows = 40, 400
    with PrismServer(tmp_path / "prism.log") as prism, tallied() as tally:
        with beam.Pipeline(options=PipelineOptions(prism_options(prism.endpoint))) as p:
            numbers = p | beam.Create(range(rows)) | beam.Reshuffle()
            numbers | beam.ParDo(_CountOnce(names)).with_output_types(int)
        assert tally == {f"c{i}": rows // names for i in range(names)}
