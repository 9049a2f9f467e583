"""Statecast inside somebody's own pipeline: any source of rows in, forecasts out.

There is no log to go on from here, so a shard lives in the engine's state, and the engine's watermark closes
windows: one timer a shard calls the same `forecaster.shards.shard.apply` as our own jobs do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from forecaster.model import Forecaster
from forecaster.rewarming import rewarm
from forecaster.shards import snapshot
from forecaster.shards.shard import Shard, apply, slots_of
from forecaster.shards.sharding import Splitter, empty_batch, hand_over_shards, reshard
from forecaster.time.frequency import Frequency
from pipelines.beam.coders import ElementCoder, FleetRows, ShardedRows
from pipelines.beam.transforms import QUARANTINED, Validate
from pipelines.state import state_table
from pipelines.workers.step_settings import encode_covariates, forecaster_of

Row = Mapping[str, Any]

LATE = "late"

_BUNDLE_ROWS = 10_000
_PARTITION = "rows"


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
        """``PCollection[Row | DataFrame]`` -> frames: ``"forecasts"``, ``"quarantined"`` and ``"late"``."""
        freq = self.forecaster.window_config.frequency
        validated = (
            rows
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "Gather" >> beam.ParDo(_Gather()).with_output_types(pl.DataFrame)
            | "Validate" >> Validate()
        )
        split = beam.ParDo(_SplitRows(self.shards, freq)).with_output_types(ShardedRows)
        fold = _Fold(
            self.forecaster.to_bytes(),
            encode_covariates(self.forecaster),
            self.shards,
            self.windows_per_step,
            self.state_table,
        )
        parts = validated.good | "Split" >> split
        if rows.is_bounded:
            last = (
                parts | "Ends" >> beam.FlatMap(_ends).with_output_types(int) | beam.CombineGlobally(_latest)
            )
            whole = beam.ParDo(_FoldWhole(fold), beam.pvalue.AsSingleton(last))
            stepped = parts | "ToShards" >> beam.GroupByKey() | "Step" >> _typed(whole)
        else:
            stepped = parts | "Step" >> _typed(beam.ParDo(_FoldAtWatermark(fold)))
        return {"forecasts": stepped.forecasts, QUARANTINED: validated[QUARANTINED], LATE: stepped[LATE]}


def _typed(step: beam.ParDo) -> Any:
    tagged = step.with_output_types(pl.DataFrame, **{LATE: pl.DataFrame})
    return tagged.with_outputs(LATE, main="forecasts")


def _ends(sharded: ShardedRows) -> Iterable[int]:
    return sharded[1].ends[-1:]


def _latest(ends: Iterable[int]) -> int:
    return max(ends, default=-1)


class _Gather(beam.DoFn):
    """Rows of a bundle as frames, with the earliest of their event times: the watermark waits for it."""

    def start_bundle(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.loose: list[dict[str, Any]] = []
        self.earliest = MAX_TIMESTAMP

    def process(
        self, row: Row | pl.DataFrame, timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[WindowedValue]:
        self.earliest = min(self.earliest, timestamp)
        if isinstance(row, pl.DataFrame):
            self.frames.append(row)
        else:
            self.loose.append(dict(row))
        if len(self.loose) + sum(map(len, self.frames)) >= _BUNDLE_ROWS:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        frames, at = self.frames, self.earliest
        if self.loose:
            frames.append(_frame_of(self.loose))
        self.start_bundle()
        for frame in frames:
            yield WindowedValue(frame, at, (GlobalWindow(),))


def _frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _column(name: str, cells: list[Any]) -> pl.Series:
    """Cells as they are, or as text where one is of another kind: it may be wrong, the others are not."""
    try:
        return pl.Series(name, cells)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if cell is None else str(cell) for cell in cells], pl.String)


class _SplitRows(beam.DoFn):
    """Rows by shard; every shard is told of the ends of all windows that have a row."""

    splitter: Splitter

    def __init__(self, shards: int, freq: Frequency) -> None:
        self.shards = shards
        self.freq = freq

    def setup(self) -> None:
        self.splitter = Splitter(self.shards)

    def process(self, rows: pl.DataFrame) -> Iterator[ShardedRows]:
        windows = rows.select(self.freq.window(pl.col("timestamp"))).to_series().unique().sort()
        ends = tuple(self.freq.end_us(windows.to_numpy()).tolist())
        batch = replace(empty_batch(_PARTITION, 0), rows=rows.with_columns(offset=pl.lit(0, pl.Int64)))
        for number, part in self.splitter.split(batch).items():
            yield number, FleetRows(part.rows, ends)


@dataclass(frozen=True)
class _Fold:
    """How shards are opened and moved on."""

    forecaster: bytes
    covariates: bytes
    shards: int
    windows_per_step: int
    state_table: Path | None

    def open(self, number: int) -> Shard:
        forecaster = forecaster_of(self.forecaster, self.covariates)
        if self.state_table is None:
            return Shard.cold(number, self.shards, forecaster.initial_state(), ())
        shard = _table(self.state_table, self.shards)[number].copy()
        state = rewarm(forecaster, shard.state)
        return replace(shard, state=state, slots=slots_of(state))

    def close(self, shard: Shard, rows: Iterable[pl.DataFrame], end_us: int) -> Iterator[Shard | Any]:
        """What comes of closing every window to ``end_us``, and last the shard after it."""
        nothing = empty_batch(_PARTITION, 0)
        frame = pl.concat([nothing.rows, *rows], how="diagonal", rechunk=True)
        batch = replace(nothing, rows=frame, watermark_us=end_us)
        forecaster = forecaster_of(self.forecaster, self.covariates)
        for after, output in apply(shard, batch, forecaster, self.windows_per_step):
            shard = after
            if len(output.late):
                yield beam.pvalue.TaggedOutput(LATE, output.late)
            if output.forecasts is not None and len(output.forecasts):
                yield output.forecasts.frame()
        yield shard


class _FoldWhole(beam.DoFn):
    def __init__(self, fold: _Fold) -> None:
        self.fold = fold

    def process(self, element: tuple[int, Iterable[FleetRows]], end_us: int) -> Iterator[Any]:
        number, parts = element
        for made in self.fold.close(self.fold.open(number), [part.rows for part in parts], end_us):
            if not isinstance(made, Shard):
                yield made


class _FoldAtWatermark(beam.DoFn):
    SHARD = ReadModifyWriteStateSpec("shard", BytesCoder())
    ROWS = BagStateSpec("rows", ElementCoder(pl.DataFrame))
    ENDS = ReadModifyWriteStateSpec("ends", BytesCoder())
    CLOSE = TimerSpec("close", TimeDomain.WATERMARK)

    def __init__(self, fold: _Fold) -> None:
        self.fold = fold

    def process(
        self,
        element: ShardedRows,
        rows: Any = beam.DoFn.StateParam(ROWS),
        ends: Any = beam.DoFn.StateParam(ENDS),
        close: Any = beam.DoFn.TimerParam(CLOSE),
    ) -> None:
        _, part = element
        if len(part.rows):
            rows.add(part.rows)
        self._announce({*_read_ends(ends), *part.ends}, ends, close)

    @on_timer(CLOSE)
    def on_close(
        self,
        number: Any = beam.DoFn.KeyParam,
        now: Any = beam.DoFn.TimestampParam,
        shard: Any = beam.DoFn.StateParam(SHARD),
        rows: Any = beam.DoFn.StateParam(ROWS),
        ends: Any = beam.DoFn.StateParam(ENDS),
        close: Any = beam.DoFn.TimerParam(CLOSE),
    ) -> Iterator[Any]:
        announced = _read_ends(ends)
        due = [us for us in announced if us <= now.micros]
        if not due:
            return
        data = shard.read()
        before = snapshot.from_bytes(data) if data else self.fold.open(number)
        for made in self.fold.close(before, rows.read(), max(due)):
            if isinstance(made, Shard):
                shard.write(snapshot.to_bytes(made))
            else:
                yield made
        rows.clear()
        self._announce(announced - set(due), ends, close)

    def _announce(self, announced: set[int], ends: Any, close: Any) -> None:
        ends.write(json.dumps(sorted(announced)).encode())
        if announced:
            close.set(Timestamp(micros=min(announced)))


def _read_ends(cell: Any) -> set[int]:
    data = cell.read()
    return set(json.loads(data)) if data else set()


@lru_cache(maxsize=2)
def _table(folder: Path, shards: int) -> tuple[Shard, ...]:
    return hand_over_shards(reshard(state_table.read(folder).shards, shards))
