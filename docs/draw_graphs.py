"""Draw the graphs of docs/beam.md: `python docs/draw_graphs.py` (needs the program `dot` of Graphviz).

Beam's own renderer turns a pipeline into the text that `dot` draws.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.render import PipelineRenderer, RenderOptions

from forecaster.time.frequency import Frequency
from pipelines import Columns, ForecastFleet, Input, ReplaySource, WriteQuarantine
from pipelines.runners.base import Run
from pipelines.runners.job_pipeline import build_pipeline
from pipelines.sources.base import as_log
from pipelines.workers.step_settings import StepSettings

IMAGES = Path(__file__).parent / "images"


def job_graph() -> str:
    """Return the pipeline of a job as the input of `dot`."""
    output = Path("out")
    source = ReplaySource(("rows.parquet",), Input(Columns()), Frequency(3600))
    settings = StepSettings("job", b"", 8, 32, output, "parquet", 2, resumed=False)
    run = Run(as_log(source), {}, settings, output / ".stop", 30.0, output)
    pipeline = beam.Pipeline("FnApiRunner")
    build_pipeline(pipeline, run)
    return _as_dot(pipeline, "Read the log/Places")


def fleet_graph() -> str:
    """Return a pipeline that reads and writes with Beam's own transforms as the input of `dot`."""
    pipeline = beam.Pipeline("FnApiRunner")
    rows = pipeline | "ReadFromParquet" >> beam.Create([{}])
    fleet = rows | ForecastFleet("weather/1")
    flat = fleet["forecasts"] | "Flatten forecasts" >> beam.FlatMap(lambda frame: frame.to_dicts())
    flat | "WriteToParquet" >> beam.io.WriteToParquet("forecasts", pa.schema([("series_id", pa.string())]))
    fleet["quarantined"] | WriteQuarantine(Path("out"))
    whole = ("ReadFromParquet", "Flatten forecasts", "WriteToParquet", "WriteQuarantine")
    inside = ("Gather", "Validate", "Split", "Latest", "By shard", "Step", "Rejected", "Count")
    return _as_dot(pipeline, *whole, *(f"ForecastFleet/{name}$" for name in inside))


def _as_dot(pipeline: beam.Pipeline, *closed: str) -> str:
    """Return a pipeline as the input of `dot`; a transform whose name matches ``closed`` is one box."""
    options = PipelineOptions([f"--render_leaf_composite_nodes={','.join(closed)}"]).view_as(RenderOptions)
    dot = PipelineRenderer(pipeline.to_runner_api(), options).to_dot()
    dot = re.sub(r' URL="[^"]*"', "", dot).replace('label="None"', 'label=""')  # None is the main output
    style = "\n".join(f'{kind} [fontname="sans-serif"]' for kind in ("graph", "node", "edge"))
    return dot.replace("digraph G {", f"digraph G {{\nrankdir=LR\n{style}", 1)


def main() -> None:
    """Write both pictures."""
    for name, dot in (("beam-job", job_graph()), ("beam-fleet", fleet_graph())):
        drawn = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
        (IMAGES / f"{name}.svg").write_text(drawn.stdout)


if __name__ == "__main__":
    main()
