"""Statecast inside somebody's own pipeline: any source of rows in, forecasts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl

from forecaster.model import Forecaster
from forecaster.windows import MICROSECONDS
from pipelines.coders import Batch, Issued
from pipelines.gate import QUARANTINED, Gate
from pipelines.transforms import CloseAll, CloseAtWatermark, StepSettings
from schemas import cells

Row = Mapping[str, Any]

_BATCH_ROWS = 10_000


@dataclass
class ForecastFleet(beam.PTransform[Any, Any]):
    """Rows of many series -> forecasts as windows close.

    Rows are mappings or Polars frames with ``series_id``, ``timestamp`` and ``value`` (see
    `schemas.validate` for what they may hold). A bounded input is stepped through to its last window, on any
    runner. An unbounded one closes a window when the pipeline's watermark has passed its end, so the
    elements' event times must be those of their rows; that needs a runner with event-time timers (Prism,
    Flink), never Beam's in-process one, which fires them at once.

    Attributes:
        forecaster: a trained forecaster, as `forecaster.Registry.load` gives.
        shards: groups of series stepped together.
        windows_per_step: most windows in one network call.
        state_table: state table to start from; None starts cold.
    """

    forecaster: Forecaster
    shards: int = 8
    windows_per_step: int = 32
    state_table: Path | None = None

    def expand(self, rows: Any) -> Any:
        """``PCollection[Row | DataFrame] -> {"forecasts": PCollection[DataFrame], "quarantined": ...}``."""
        settings = StepSettings(
            self.forecaster.to_bytes(), self.shards, self.windows_per_step, self.state_table
        )
        freq_s = self.forecaster.window_config.freq_s
        gate = (
            rows
            | "Gather" >> beam.BatchElements(min_batch_size=1, max_batch_size=_BATCH_ROWS)
            | "Batch" >> beam.FlatMap(_batches, freq_s).with_output_types(Batch)
            | "Gate" >> Gate(self.shards)
        )
        close = CloseAll(settings) if rows.is_bounded else CloseAtWatermark(settings)
        closed = gate.good | "Close" >> close
        forecasts = closed.issued | "Frames" >> beam.Map(_frame).with_output_types(pl.DataFrame)
        return {"forecasts": forecasts, QUARANTINED: gate[QUARANTINED]}


def _batches(rows: Iterable[Row | pl.DataFrame], freq_s: int) -> Iterator[Batch]:
    """Elements that came together as batches, each announcing the end of every window it has rows of."""
    frames = [row for row in rows if isinstance(row, pl.DataFrame)]
    if loose := [row for row in rows if not isinstance(row, pl.DataFrame)]:
        frames.append(pl.DataFrame([dict(row) for row in loose], infer_schema_length=None, strict=False))
    freq_us = freq_s * MICROSECONDS
    for frame in frames:
        at = cells.times(frame["timestamp"]).dt.epoch("us").drop_nulls()
        ends = ((at // freq_us + 1) * freq_us).unique().sort().to_list()
        yield Batch(frame, tuple(ends))


def _frame(issued: Issued) -> pl.DataFrame:
    return issued.forecasts
