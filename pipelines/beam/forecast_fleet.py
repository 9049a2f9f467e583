"""Forecast the series of any Beam source in a user's own pipeline.

A Beam source has no log from which Statecast can resume. So the engine's state holds each shard, and the
engine's watermark closes windows: a timer for each shard calls `forecaster.shards.apply.apply`, as jobs do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from numpy.typing import NDArray

from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.counts import Counts, by_kind
from forecaster.shards.shard import Output, Shard, slots_of
from forecaster.shards.sharding import empty_batch, hand_over_shards, reshard
from forecaster.stepping.rewarming import rewarm
from forecaster.time.windows import MICROSECONDS
from pipelines.beam.coders import ElementCoder, FleetRows, ShardedRows
from pipelines.beam.gather_rows import PARTITION, GatherRows, SplitRows
from pipelines.beam.metrics import RowMetrics
from pipelines.beam.model import Model, model_of
from pipelines.beam.validate import QUARANTINED, Validate
from pipelines.state import state_table
from pipelines.storage import Location, location
from schemas.errors import ConfigError

FORECASTS: Final = "forecasts"
LATE: Final = "late"

_WITHOUT_TIMERS = ("FnApiRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner")


@dataclass
class ForecastFleet(beam.PTransform[Any, Any]):
    """A Beam transform that forecasts series: it takes rows, and returns forecasts, rejected and late rows.

    Rows are mappings or Polars frames with ``series_id``, ``timestamp`` and ``value`` (see `schemas.validate`
    for their types), or the batches of `pipelines.ReadLog`. The outputs are three PCollections of Polars
    frames: ``"forecasts"``, ``"quarantined"`` and ``"late"``.

    >>> import apache_beam as beam
    >>> from forecaster import Forecaster, NetworkConfig, WindowConfig
    >>> from pipelines import ForecastFleet
    >>> model = Forecaster.untrained(NetworkConfig(hidden=8, layers=1, horizon=3), WindowConfig())
    >>> times = [f"2013-01-01T0{hour}:00Z" for hour in range(4)]
    >>> rows = [{"series_id": "a", "timestamp": time, "value": 20.5} for time in times]
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     fleet = pipeline | beam.Create(rows) | ForecastFleet(model)
    ...     _ = fleet["forecasts"] | beam.Map(lambda frame: print(frame["issued_at"].dt.hour().to_list()))
    [1, 2, 3, 4]

    A bounded input is stepped through to its last window, on any runner. In an unbounded input, a window
    closes when the watermark of the pipeline has passed its end by the model's allowed lateness
    (``windows.allowed_lateness``); a row that comes later is a late row. Elements must have the event times
    of their rows. An unbounded input needs an engine with event-time timers, such as Prism or Flink: Beam's
    in-process runners fire these timers at once, and are refused.

    In the namespace ``statecast``, Beam counts ``rows_in``, ``rows_used``, ``rows_quarantined``,
    ``rows_late``, ``rows_duplicate``, ``windows_closed`` (once for each shard) and ``forecasts``.

    Attributes:
        model: a forecaster, sent to the workers with its weights; or the place from which each worker loads
            it: a folder that `Forecaster.save` wrote or the file in it, as a path or as the URL of an object
            store, or a model of the registry, such as ``"weather/3"``. Name a version, because workers that
            load an alias at different times can load different models. Known and static covariates count as
            missing unless the model is a forecaster with its covariate tables.
        shards: the number of groups of series that are stepped together.
        windows_per_step: the most windows in one call of the network.
        state_table: the state table to start from, as a path or as the URL of an object store; None starts
            cold.
        tracking_uri: the MLflow store of a model of the registry.
    """

    model: Forecaster | Path | str
    shards: int = 8
    windows_per_step: int = 32
    state_table: Location | str | None = None
    tracking_uri: str = "sqlite:///mlflow.db"

    def expand(self, rows: Any) -> Any:
        """Forecast a PCollection of rows, frames or batches; return the three output PCollections by name."""
        _refuse_repair(self.model)
        pipeline = uuid4().hex
        model = model_of(self.model, self.tracking_uri, pipeline)
        table = location(self.state_table) if isinstance(self.state_table, str) else self.state_table
        step = _Step(model, self.shards, self.windows_per_step, table, pipeline)
        frames = rows | "One window" >> beam.WindowInto(GlobalWindows()) | "Gather" >> GatherRows()
        validated = frames.rows | "Validate" >> Validate()
        parts = validated.good | "Split" >> SplitRows(self.shards, model)
        if rows.is_bounded:
            ends = parts | "Last ends" >> beam.FlatMap(_last_end).with_output_types(int)
            last_end = beam.pvalue.AsSingleton(ends | "Latest" >> beam.CombineGlobally(_latest))
            grouped = parts | "By shard" >> beam.GroupByKey()
            stepped = grouped | "Step" >> _typed(beam.ParDo(_StepToEnd(step), last_end))
        else:
            _refuse_without_timers(rows.pipeline.runner)
            stepped = parts | "Step" >> _typed(beam.ParDo(_StepAtWatermark(step)))
        rejected = (frames[QUARANTINED], validated[QUARANTINED]) | "Rejected" >> beam.Flatten()
        counted = rejected | "Count" >> beam.Map(_counted).with_output_types(pl.DataFrame)
        return {FORECASTS: stepped.forecasts, QUARANTINED: counted, LATE: stepped[LATE]}


def _refuse_repair(model: Forecaster | Path | str) -> None:
    # A stored model does not contain ``windows.repair``, because it is a setting of the job.
    repair = model.window_config.repair if isinstance(model, Forecaster) else 0
    if repair:
        raise ConfigError(
            f"windows.repair = {repair} has no effect in ForecastFleet, which repairs no late rows: "
            "set it to 0, or run `statecast stream`"
        )


def _refuse_without_timers(runner: object) -> None:
    if (name := type(runner).__name__) in _WITHOUT_TIMERS:
        raise ConfigError(
            f"{name} fires event-time timers at once, so an unbounded input cannot be forecast on it: "
            "run the pipeline on Prism (pipelines.PrismServer) or on Flink"
        )


def _typed(step: beam.ParDo) -> Any:
    tagged = step.with_output_types(pl.DataFrame, **{LATE: pl.DataFrame})
    return tagged.with_outputs(LATE, main=FORECASTS)


def _counted(rejected: pl.DataFrame) -> pl.DataFrame:
    RowMetrics().add(Counts(), Counts(rows_in=len(rejected), quarantined=by_kind(rejected)))
    return rejected


def _last_end(sharded: ShardedRows) -> Iterable[int]:
    return sharded[1].ends[-1:]


def _latest(ends: Iterable[int]) -> int:
    return max(ends, default=-1)


@dataclass(frozen=True)
class _Step:
    """Opens shards and closes their windows; used by the two DoFns of `ForecastFleet` that step shards.

    Attributes:
        model: the model.
        shards: the number of shards.
        windows_per_step: the most windows in one call of the network.
        state_table: the state table from which the shards start; None starts cold.
        pipeline: id of the pipeline; another pipeline in this process reads the table again.
    """

    model: Model
    shards: int
    windows_per_step: int
    state_table: Location | None
    pipeline: str

    @property
    def lateness_us(self) -> int:
        """The allowed lateness of the model in microseconds."""
        return self.model.load().window_config.lateness_s * MICROSECONDS

    def open(self, number: int) -> Shard:
        """Return a shard before any row: from the state table, or without series if no table is given."""
        if self.state_table is None:
            return Shard.cold(number, self.shards, self.model.load().initial_state(), ())
        return _table(self.state_table, self.shards, self.pipeline)[number].copy()

    def close(
        self, shard: Shard, rows: Iterable[pl.DataFrame], end_us: int
    ) -> Iterator[tuple[Shard, Output]]:
        """Apply ``rows`` to a shard, and close its windows up to ``end_us`` in blocks.

        Yields:
            The changed shard and its new output: first of the rows, then of each block of windows.
        """
        nothing, forecaster = empty_batch(PARTITION, 0), self.model.load()
        frame = pl.concat([nothing.rows, *rows], how="diagonal", rechunk=True)
        # `rewarm` returns the state unchanged if it was made with the same weights.
        state = rewarm(forecaster, shard.state)
        shard = replace(shard, state=state, slots=slots_of(state))
        batch = replace(nothing, rows=frame, watermark_us=end_us)
        yield from apply(shard, batch, forecaster, self.windows_per_step)


class _StepShard(beam.DoFn):
    """Base class of the two DoFns that step shards: `_StepToEnd` and `_StepAtWatermark`."""

    def __init__(self, step: _Step) -> None:
        self.step = step

    def setup(self) -> None:
        self.metrics = RowMetrics()
        # This property loads the model now, in `setup`, so that the first element need not wait for it.
        self.lateness_us = self.step.lateness_us

    def closed(self, before: Shard, rows: Iterable[pl.DataFrame], end_us: int) -> Iterator[Shard | Any]:
        """Apply ``rows`` and close windows up to ``end_us``; yield late rows, forecasts, then the shard."""
        shard = before
        for after, output in self.step.close(before, rows, end_us):
            shard = after
            if len(output.late):
                yield beam.pvalue.TaggedOutput(LATE, output.late)
            if output.forecasts is not None and len(output.forecasts):
                yield output.forecasts.frame()
        self.metrics.add(before.counts, shard.counts)
        yield shard


class _StepToEnd(_StepShard):
    """Step a shard through all rows of a bounded input in one call."""

    def process(self, element: tuple[int, Iterable[FleetRows]], end_us: int) -> Iterator[Any]:
        number, parts = element
        for made in self.closed(self.step.open(number), [part.rows for part in parts], end_us):
            if not isinstance(made, Shard):
                yield made


class _StepAtWatermark(_StepShard):
    """Collect the rows of a shard, and step the shard when the watermark closes a window."""

    SHARD = ReadModifyWriteStateSpec("shard", BytesCoder())
    ROWS = BagStateSpec("rows", ElementCoder(pl.DataFrame))
    # The ends of all open windows with rows in any shard, in microseconds (int64), ascending.
    ENDS = ReadModifyWriteStateSpec("ends", BytesCoder())
    # The timer is set to the earliest end in `ENDS` plus the allowed lateness.
    CLOSE = TimerSpec("close", TimeDomain.WATERMARK)

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
        open_ends = _read_ends(ends)
        if len(new := np.setdiff1d(np.array(part.ends, np.int64), open_ends)):
            self._wait_for(np.union1d(open_ends, new), ends, close)

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
        open_ends = _read_ends(ends)
        due = int(np.searchsorted(open_ends, now.micros - self.lateness_us, side="right"))
        if not due:
            return
        data = shard.read()
        before = snapshot.from_bytes(data) if data else self.step.open(number)
        for made in self.closed(before, rows.read(), int(open_ends[due - 1])):
            if isinstance(made, Shard):
                shard.write(snapshot.to_bytes(made))
            else:
                yield made
        rows.clear()
        self._wait_for(open_ends[due:], ends, close)

    def _wait_for(self, open_ends: NDArray[np.int64], ends: Any, close: Any) -> None:
        ends.write(open_ends.tobytes())
        if len(open_ends):
            close.set(Timestamp(micros=int(open_ends[0]) + self.lateness_us))


def _read_ends(cell: Any) -> NDArray[np.int64]:
    return np.frombuffer(cell.read() or b"", np.int64)


@lru_cache(maxsize=2)
def _table(folder: Location, shards: int, pipeline: str) -> tuple[Shard, ...]:
    return hand_over_shards(reshard(state_table.read(folder).shards, shards))
