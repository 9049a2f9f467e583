"""The step between valid rows and forecasts: windows close, and shards are stepped through them.

It has no logic of its own: what a shard does with rows and closed windows is `forecaster.shard`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import torch
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from forecaster.model import Forecaster
from forecaster.shard import Closed, admit, closings
from forecaster.state import State
from forecaster.stepping import rewarm
from forecaster.windows import last_closed
from pipelines import state_table
from pipelines.coders import Batch, ElementCoder, Issued, Sharded, ShardState
from pipelines.process import SideBySide
from pipelines.sinks.metrics import counter
from schemas import observations

STATES = "states"

_END = GlobalWindow().max_timestamp()


@dataclass(frozen=True)
class StepSettings:
    """What a worker needs to step a shard.

    Attributes:
        forecaster: `Forecaster.to_bytes`.
        shards: number of shards.
        windows_per_step: most windows in one network call.
        state_table: folder of the state table to start from; None starts cold.
        parallelism: shards of a bounded input that are stepped side by side, each on one torch thread.
    """

    forecaster: bytes
    shards: int
    windows_per_step: int
    state_table: Path | None = None
    parallelism: int = 1


@dataclass
class CloseAtWatermark(beam.PTransform[Any, Any]):
    """`Sharded` batches -> `Issued` forecasts as the watermark closes windows, and at the end `ShardState`s.

    The streaming half of the job. State lives in the global window under the shard's number; one event-time
    timer a shard is armed for the earliest announced closing and armed again when it fires.
    """

    settings: StepSettings

    def expand(self, batches: Any) -> Any:
        """``PCollection[Sharded] -> {None: PCollection[Issued], "states": PCollection[ShardState]}``."""
        return batches | _typed(beam.ParDo(_StepShards(self.settings)))


@dataclass
class CloseAll(beam.PTransform[Any, Any]):
    """`Sharded` batches of a bounded input -> what `CloseAtWatermark` gives, every window closed.

    The batch half of the job: the watermark of a whole file is its last row.
    """

    settings: StepSettings

    def expand(self, batches: Any) -> Any:
        """``PCollection[Sharded] -> {None: PCollection[Issued], "states": PCollection[ShardState]}``."""
        freq_s = _forecaster(self.settings.forecaster).window_config.freq_s
        through = (
            batches
            | "LastRow" >> beam.FlatMap(_last_row_us).with_output_types(int)
            | "LastOfAll" >> beam.CombineGlobally(_latest).without_defaults()
            | "LastWindow" >> beam.Map(lambda us: us // (freq_s * 1_000_000)).with_output_types(int)
        )
        return (
            batches
            | "ToShards" >> beam.GroupByKey()
            | "Step" >> _typed(beam.ParDo(_StepWhole(self.settings), beam.pvalue.AsIter(through)))
        )


def _typed(step: beam.ParDo) -> Any:
    """A step's two outputs, with the coders that carry them."""
    return step.with_output_types(Issued, **{STATES: ShardState}).with_outputs(STATES, main="issued")


def _last_row_us(sharded: Sharded) -> Iterable[int]:
    rows = sharded[1].rows
    return [int(rows["timestamp"].dt.epoch("us").max())] if len(rows) else []  # type: ignore[arg-type]


def _latest(times_us: Iterable[int]) -> int:
    return max(times_us, default=-(2**62))


class _Stepper:
    """What both halves share: a forecaster, a start, and the counting of what became of rows."""

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        self.used, self.duplicates, self.too_late = (counter(n) for n in ("used", "duplicates", "too_late"))
        self.restored, self.pending = counter("restored"), counter("pending")
        self.steps = counter("series_steps")

    @property
    def forecaster(self) -> Forecaster:
        return _forecaster(self.settings.forecaster)

    def begin(self, shard: int) -> tuple[State, pl.DataFrame, int | None]:
        """State, pending rows and last closed window that a shard starts with."""
        if self.settings.state_table is None:
            return self.forecaster.initial_state(), observations.empty(), None
        table = state_table.read(self.settings.state_table)
        state, pending = table.shard(shard, self.settings.shards)
        self.restored.inc(len(pending))
        if state is None or not len(state):
            return self.forecaster.initial_state(), pending, table.closed_through
        return rewarm(self.forecaster, state), pending, table.closed_through

    def admit(self, rows: pl.DataFrame, closed_through: int | None) -> pl.DataFrame:
        """The rows that are in time, the others counted."""
        rows, late = admit(rows, closed_through, self.forecaster.window_config.freq_s)
        self.too_late.inc(late)
        return rows

    def close(
        self, shard: int, state: State, pending: pl.DataFrame, through: int, arrived_s: float
    ) -> Iterator[Issued | Closed]:
        """The forecasts of every window up to ``through``, then the shard after it."""
        closed = Closed(state, pending, 0, 0)
        for forecasts, closed in closings(
            self.forecaster, state, pending, through, self.settings.windows_per_step
        ):
            self.used.inc(closed.used)
            self.duplicates.inc(closed.duplicates)
            if forecasts is not None and len(forecasts):
                self.steps.inc(len(forecasts))
                arrived = (arrived_s,) if int(closed.state.clock.max()) >= through else ()
                yield Issued(forecasts.frame(), shard, len(forecasts), arrived)
        yield closed

    def end(self, shard: int, closed: Closed, closed_through: int | None) -> Any:
        """The shard as it goes into the state table."""
        self.pending.inc(len(closed.pending))
        part = ShardState(closed.pending, closed.state.to_bytes(), shard, closed_through)
        return beam.pvalue.TaggedOutput(STATES, part)


class _StepWhole(_Stepper, beam.DoFn):
    running: SideBySide[Any]

    def start_bundle(self) -> None:
        self.running = SideBySide()

    def process(self, element: tuple[int, Iterable[Batch]], through_: Iterable[int]) -> Iterator[Any]:
        shard, batches = element
        # Here, not there: what Beam hands in can only be read in the thread that it was handed to.
        self.running.start(self.step(shard, list(batches), list(through_)))
        yield from self.running.results(until=self.settings.parallelism - 1)

    def finish_bundle(self) -> Iterator[Any]:
        for result in self.running.results(until=0):
            tagged = isinstance(result, beam.pvalue.TaggedOutput)
            value = WindowedValue(result.value if tagged else result, _END, (GlobalWindow(),))
            yield beam.pvalue.TaggedOutput(result.tag, value) if tagged else value

    def step(self, shard: int, batches: list[Batch], last: list[int]) -> Iterator[Any]:
        """One shard, through every window up to the ``last``; none where no shard has a row."""
        state, pending, closed_through = self.begin(shard)
        rows = [self.admit(batch.rows, closed_through) for batch in batches]
        pending = pl.concat([pending, *rows], how="diagonal", rechunk=True)
        closed = Closed(state, pending, 0, 0)
        for through in last:
            for result in self.close(shard, state, pending, through, 0.0):
                if isinstance(result, Closed):
                    closed = result
                    closed_through = through if closed_through is None else max(closed_through, through)
                else:
                    yield result
        yield self.end(shard, closed, closed_through)


class _StepShards(_Stepper, beam.DoFn):
    FLEET = ReadModifyWriteStateSpec("fleet", BytesCoder())
    PENDING = BagStateSpec("pending", ElementCoder(pl.DataFrame))
    AGENDA = ReadModifyWriteStateSpec("agenda", BytesCoder())
    CLOSE = TimerSpec("close", TimeDomain.WATERMARK)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        element: Sharded,
        fleet: Any = beam.DoFn.StateParam(FLEET),
        pending: Any = beam.DoFn.StateParam(PENDING),
        agenda: Any = beam.DoFn.StateParam(AGENDA),
        close: Any = beam.DoFn.TimerParam(CLOSE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> None:
        shard, batch = element
        plan = _Agenda.read(agenda)
        if plan is None:
            state, waiting, closed_through = self.begin(shard)
            plan = _Agenda(closed_through, {})
            fleet.write(state.to_bytes())
            if len(waiting):
                pending.add(waiting)
            end.set(_END)
        rows = self.admit(batch.rows, plan.closed_through)
        if len(rows):
            pending.add(rows)
        plan.closes.update((us, batch.arrived_s) for us in batch.closes if us not in plan.closes)
        plan.keep(agenda, close)

    @on_timer(CLOSE)
    def on_close(
        self,
        shard: Any = beam.DoFn.KeyParam,
        now: Any = beam.DoFn.TimestampParam,
        fleet: Any = beam.DoFn.StateParam(FLEET),
        pending: Any = beam.DoFn.StateParam(PENDING),
        agenda: Any = beam.DoFn.StateParam(AGENDA),
        close: Any = beam.DoFn.TimerParam(CLOSE),
    ) -> Iterator[Any]:
        plan = _Agenda.read(agenda)
        if plan is None:
            return
        for result in self.close_due(shard, plan, now.micros, fleet, pending):
            if isinstance(result, Issued):
                yield result
        plan.keep(agenda, close)

    @on_timer(END)
    def on_end(
        self,
        shard: Any = beam.DoFn.KeyParam,
        fleet: Any = beam.DoFn.StateParam(FLEET),
        pending: Any = beam.DoFn.StateParam(PENDING),
        agenda: Any = beam.DoFn.StateParam(AGENDA),
    ) -> Iterator[Any]:
        """No row will come any more. What was announced is closed, what was not waits in the state table."""
        plan = _Agenda.read(agenda)
        if plan is None:
            return
        for result in self.close_due(shard, plan, _END.micros, fleet, pending):
            if isinstance(result, Issued):
                yield result
            else:
                yield self.end(shard, result, plan.closed_through)
        agenda.clear()
        fleet.clear()
        pending.clear()

    def close_due(
        self, shard: int, plan: _Agenda, now_us: int, fleet: Any, pending: Any
    ) -> Iterator[Issued | Closed]:
        """Closes what the watermark ``now_us`` allows, in Beam's state and in ``plan``.

        Announcement by announcement: how many of them a firing finds due is a matter of time, and a rerun
        forms the same blocks, and writes the same files, all the same.
        """
        state = State.from_bytes(fleet.read())
        rows = pl.concat([observations.empty(), *pending.read()], how="diagonal", rechunk=True)
        due = sorted(us for us in plan.closes if us <= now_us)
        closed = Closed(state, rows, 0, 0)
        for us in due:
            through = last_closed(us, state.freq_s)
            for result in self.close(shard, closed.state, closed.pending, through, plan.closes.pop(us)):
                if isinstance(result, Issued):
                    yield result
                else:
                    closed = result
            plan.closed_through = (
                through if plan.closed_through is None else max(plan.closed_through, through)
            )
        if due:
            fleet.write(closed.state.to_bytes())
            pending.clear()
            if len(closed.pending):
                pending.add(closed.pending)
        yield closed


@dataclass
class _Agenda:
    """When a shard closes windows: the last one it closed, and the closings announced for later.

    ``closes`` maps an event time in microseconds to the wall clock at which it was announced.
    """

    closed_through: int | None
    closes: dict[int, float]

    @staticmethod
    def read(cell: Any) -> _Agenda | None:
        data = cell.read()
        if not data:
            return None
        closed_through, closes = json.loads(data)
        return _Agenda(closed_through, dict(closes))

    def keep(self, cell: Any, timer: Any) -> None:
        """Writes it into Beam's state, and arms the timer for the earliest closing."""
        if self.closes:
            timer.set(Timestamp(micros=min(self.closes)))
        cell.write(json.dumps([self.closed_through, sorted(self.closes.items())]).encode())


@lru_cache(maxsize=4)
def _forecaster(data: bytes) -> Forecaster:
    """The forecaster of a worker process, decoded once.

    One torch thread: shards are stepped side by side, which is faster than each on all cores in turn.
    """
    torch.set_num_threads(1)
    return Forecaster.from_bytes(data)
