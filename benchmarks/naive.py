"""What somebody would write first: one key a series, one Beam state a series, one network call a row.

Same network and inputs, and it forecasts the same; no validation, no windows, no watermark: a row is a step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import torch
from apache_beam.coders import BytesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from forecaster.components.moments import Moments, network_inputs
from forecaster.model import Forecaster
from pipelines.runners.prism import PrismServer, prism_options

Row = tuple[str, tuple[int, float]]


def run(model: Forecaster, path: Path, output: Path) -> float:
    """Steps every row of ``path`` on Prism; seconds from the first row read to the last forecast written."""
    output.mkdir()
    with PrismServer(output / "prism.log") as prism:
        options = PipelineOptions(prism_options(prism.endpoint, streaming=False))
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create([str(path)], reshuffle=False)
                | "Rows" >> beam.ParDo(_Rows(output)).with_output_types(Row)
                | "Step" >> beam.ParDo(_StepOne(model.to_bytes())).with_output_types(str)
                | "Write" >> beam.ParDo(_WriteLines(output))
            )
    first, *_ = output.glob("began")
    last_s = max(file.stat().st_mtime for file in output.glob("*.jsonl"))
    return last_s - float(first.read_text())


class _Rows(beam.DoFn):
    def __init__(self, output: Path) -> None:
        self.output = output

    def process(self, path: str) -> Iterator[Row]:
        (self.output / "began").write_text(str(time.time()))
        frame = pl.read_parquet(path).with_columns(pl.col("timestamp").dt.epoch("s"))
        for name, at_s, value in frame.iter_rows():
            yield name, (at_s, value)


class _StepOne(beam.DoFn):
    STATE = ReadModifyWriteStateSpec("state", BytesCoder())

    def __init__(self, model: bytes) -> None:
        self.model = model

    def process(self, row: Row, cell: Any = beam.DoFn.StateParam(STATE)) -> Iterator[str]:
        name, (at_s, value) = row
        model = _model(self.model)
        config, freq_s = model.network_config, model.window_config.freq_s
        moments, hidden, cells, ring = _unpacked(model, cell.read())
        inputs = network_inputs(
            np.array([[value]]), np.array([at_s // freq_s]), freq_s, moments, ring, config
        )
        with torch.inference_mode():
            change, hidden, cells = model.network(torch.from_numpy(inputs.x), hidden, cells)
        cell.write(_packed(inputs.moments, hidden, cells, inputs.ring))
        forecast = inputs.last[0, 0] + change[:, 0, 0].double().numpy() * inputs.scale[0, 0]
        named = dict(zip(config.quantiles, forecast.tolist(), strict=True))
        yield json.dumps({"series_id": name, "issued_at": at_s + freq_s, "forecast": named})


class _WriteLines(beam.DoFn):
    def __init__(self, output: Path) -> None:
        self.output = output

    def start_bundle(self) -> None:
        self.lines: list[str] = []

    def process(self, line: str) -> None:
        self.lines.append(line)

    def finish_bundle(self) -> None:
        (self.output / f"{time.time_ns()}-{id(self)}.jsonl").write_text("\n".join(self.lines) + "\n")


def _packed(moments: Moments, hidden: torch.Tensor, cells: torch.Tensor, ring: np.ndarray) -> bytes:
    numbers = [getattr(moments, name)[0] for name in ("observed", "mean", "variance", "last", "age")]
    parts = (np.array(numbers, np.float64), ring.ravel(), hidden.numpy().ravel(), cells.numpy().ravel())
    return b"".join(part.tobytes() for part in parts)


def _unpacked(
    model: Forecaster, data: bytes | None
) -> tuple[Moments, torch.Tensor, torch.Tensor, np.ndarray]:
    config = model.network_config
    if not data:
        hidden, cells = model.network.initial(1)
        return Moments.unseen(1), hidden, cells, np.full((config.ring, 1), np.nan)
    numbers = np.frombuffer(data, np.float64, 5 + config.ring)
    observed, mean, variance, last, age = numbers[:5, None]
    moments = Moments(observed.astype(np.int64), mean, variance, last, age.astype(np.int64))
    both = (
        np.frombuffer(data, np.float32, offset=numbers.nbytes)
        .reshape(2, config.layers, 1, config.hidden)
        .copy()
    )
    return moments, torch.from_numpy(both[0]), torch.from_numpy(both[1]), numbers[5:, None]


@lru_cache(maxsize=1)
def _model(data: bytes) -> Forecaster:
    torch.set_num_threads(1)  # a batch of one has no work for more
    return Forecaster.from_bytes(data)
