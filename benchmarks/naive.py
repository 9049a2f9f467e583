"""A simple Beam pipeline for comparison: one key and one Beam state per series, one network call per row.

It has the same network, inputs and forecasts as the project's pipelines, but no validation, no windows and no
watermark: each row is one step.
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

from forecaster.arrays import Arrays
from forecaster.components.base import Block, Outputs
from forecaster.model import Forecaster
from pipelines.runners.prism import PrismServer, prism_options

Row = tuple[str, tuple[int, float]]


def run(model: Forecaster, path: Path, output: Path) -> float:
    """Step every row of a file on Prism; return the seconds from the first row to the last forecast."""
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
        config, freq = model.network_config, model.window_config.frequency
        out = Outputs.empty(len(config.quantiles), 0, 1, 1, config.horizon)
        block = Block(np.array([at_s // freq.seconds]), np.array([[value]]), freq, out=out)
        parts = _unpacked(model, cell.read())
        for component in model.components:
            parts[component.name], block = component.step(parts[component.name], block)
        cell.write(_packed(parts))
        named = dict(zip(config.quantiles, out.forecast[:, 0, 0].tolist(), strict=True))
        yield json.dumps({"series_id": name, "issued_at": at_s + freq.seconds, "forecast": named})


class _WriteLines(beam.DoFn):
    def __init__(self, output: Path) -> None:
        self.output = output

    def start_bundle(self) -> None:
        self.lines: list[str] = []

    def process(self, line: str) -> None:
        self.lines.append(line)

    def finish_bundle(self) -> None:
        (self.output / f"{time.time_ns()}-{id(self)}.jsonl").write_text("\n".join(self.lines) + "\n")


def _packed(parts: dict[str, Arrays]) -> bytes:
    return b"".join(array.tobytes() for own in parts.values() for array in own.values())


def _unpacked(model: Forecaster, data: bytes | None) -> dict[str, Arrays]:
    parts = {component.name: component.init(1) for component in model.components}
    if not data:
        return parts
    offset = 0
    for own in parts.values():
        for name, array in own.items():
            numbers = np.frombuffer(data, array.dtype, array.size, offset)
            own[name] = numbers.reshape(array.shape).copy()
            offset += array.nbytes
    return parts


@lru_cache(maxsize=1)
def _model(data: bytes) -> Forecaster:
    torch.set_num_threads(1)  # a batch of one row has no work for more threads
    return Forecaster.from_bytes(data)
