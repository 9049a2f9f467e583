"""Program that forecasts a replay on Prism: ``... fleet_on_prism ROWS MODEL OUTPUT [POOL]``.

The replay has a limited speed, so that a test can kill the program while it runs.

With the address of a worker pool, the worker is a process of the pool. Otherwise it is a thread of this
process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import ForecastFleet, PrismServer, ReadLog, ReplaySource, WriteForecasts, prism_options
from tests.fleets import HOUR
from tests.pipelines.jobs.replays import DEFAULT_INPUT

WINDOWS_PER_S = 10


def main(rows: str, model: str, output: str, *pool: str) -> None:
    source = ReplaySource((rows,), DEFAULT_INPUT, HOUR, speed=3600.0 * WINDOWS_PER_S)
    with PrismServer(Path(output) / "prism.log") as prism:
        workers = [f"--environment_config={pool[0]}", "--environment_type=EXTERNAL"] if pool else []
        options = [*prism_options(prism.endpoint), *workers]
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        fleet = pipeline | ReadLog(source) | ForecastFleet(Path(model), shards=3)
        fleet["forecasts"] | WriteForecasts(output)
        pipeline.run().wait_until_finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
