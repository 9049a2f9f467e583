"""Measure the processor time of each part of a series-step, on one thread of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import psutil

from benchmarks import fleet
from benchmarks.fleet import FREQ_S, START, Fleet
from benchmarks.kafka import messages
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import empty_batch
from forecaster.time.windows import MICROSECONDS
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import write_frame
from pipelines.sources.base import Position, Positions, Step
from pipelines.sources.messages import DecoderSpec, Messages, decoded
from pipelines.state import snapshot_file

_SERIES, _WINDOWS = 2_500, 24
_POLLS = 300


@dataclass(frozen=True)
class Parts:
    """Measured costs. Times are core-microseconds of processor time.

    Attributes:
        decode_json_us, decode_arrow_us: time to decode and validate a row.
        step_us: time to apply a row to its shard, with network, linear part, experts, intervals and p-value.
        write_us: time to write a forecast as Parquet.
        snapshot_us: time to write one series in a snapshot.
        message_us: time to send an empty message from a poll to a shard, on Prism.
        row_json_bytes, row_arrow_bytes: bytes of a row in a topic.
        forecast_bytes: bytes of a forecast on disk.
        state_bytes: bytes of one series' state in memory.
        snapshot_bytes: bytes of one series in a snapshot.
    """

    decode_json_us: float
    decode_arrow_us: float
    step_us: float
    write_us: float
    snapshot_us: float
    message_us: float
    row_json_bytes: float
    row_arrow_bytes: float
    forecast_bytes: float
    state_bytes: float
    snapshot_bytes: float


def measured(folder: Path) -> Parts:
    """Measure every part on this machine."""
    frame = next(Fleet(_SERIES).frames(_WINDOWS))
    json_us, json_bytes = _decoding(frame, "json")
    arrow_us, arrow_bytes = _decoding(frame, "arrow")
    shard = Shard.cold(0, 1, fleet.whole().initial_state(), ("log",))
    step_us, write_us, forecast_bytes, shard = _stepping(shard, folder)
    snapshot_us = _least(lambda: snapshot_file.write_shard(folder / "state", shard)) / _SERIES
    stored = sum(path.stat().st_size for path in (folder / "state").glob("*.parquet"))
    return Parts(
        decode_json_us=json_us,
        decode_arrow_us=arrow_us,
        step_us=step_us,
        write_us=write_us,
        snapshot_us=snapshot_us,
        message_us=_message(folder / "polls", partitions=16, shards=16),
        row_json_bytes=json_bytes,
        row_arrow_bytes=arrow_bytes,
        forecast_bytes=forecast_bytes,
        state_bytes=shard.state.bytes_per_series,
        snapshot_bytes=stored / _SERIES,
    )


def _least(run: Callable[[], object], rounds: int = 5) -> float:
    """Run a function several times; return its least processor time in microseconds."""
    spent = []
    for _ in range(rounds):
        began_s = time.process_time()
        run()
        spent.append(time.process_time() - began_s)
    return 1e6 * min(spent)


def _decoding(frame: pl.DataFrame, kind: str) -> tuple[float, float]:
    """Return the core-microseconds to decode and validate a row, and the bytes of a row."""
    values = [value for value, _ in messages(frame, kind)]
    came, decode = Messages(values, [None] * len(values)), DecoderSpec(kind).decoder()
    raw = decoded(decode, came)
    rows = sum(map(len, raw))

    def run() -> None:
        (raw,) = decoded(decode, came)
        inside, _ = fleet.INPUT.within(raw.with_columns(pl.int_range(1, rows + 1).alias("row")))
        fleet.INPUT.validated(inside, inside["message"], time.time_ns() // 1000)

    return _least(run) / rows, sum(map(len, values)) / rows


def _stepping(shard: Shard, folder: Path) -> tuple[float, float, float, Shard]:
    """Return the core-microseconds of a step and of writing a forecast, its bytes, and the last shard.

    Each batch holds one window, as in a stream that is up to date.
    """
    model, stepped, written, size, offset = fleet.whole(), [], [], 0, 0
    for number, window in enumerate(_batches()):
        began_s = time.process_time()
        outputs = []
        for after, output in apply(shard, window, model, 1):
            shard = after
            outputs += [output.forecasts] if output.forecasts is not None else []
        stepped.append(time.process_time() - began_s)
        for forecasts in outputs:
            began_s = time.process_time()
            path = folder / f"{number}.parquet"
            write_frame(forecasts.frame(), path, "parquet")
            written.append(time.process_time() - began_s)
            size = path.stat().st_size
        offset = window.stop
    assert offset == _SERIES * _WINDOWS
    step_us, write_us = (1e6 * sorted(s)[len(s) // 2] / _SERIES for s in (stepped[2:], written[1:]))
    return step_us, write_us, size / _SERIES, shard


def _batches() -> Iterator[Batch]:
    empty, offset = empty_batch("log", 0), 0
    for frame in Fleet(_SERIES).frames(_WINDOWS):
        for window in frame.partition_by("timestamp", maintain_order=True):
            stop = offset + len(window)
            rows = window.with_columns(pl.int_range(offset, stop).alias("offset"))
            end_us = window["timestamp"].to_physical()[0] + FREQ_S * MICROSECONDS
            yield Batch("log", offset, stop, rows, empty.rejected, watermark_us=end_us)
            offset = stop


@dataclass(frozen=True)
class _Polls:
    """A source of partitions without rows, in which each step only moves the watermark by a second."""

    partitions: int
    polls: int

    is_paced = False

    def begin(self, reached: Positions) -> Positions:
        return {f"partition-{number}": Position(0) for number in range(self.partitions)}

    def step(self, places: Positions) -> Step[Positions] | None:
        at = max(place.watermark_us or START * FREQ_S * MICROSECONDS for place in places.values())
        if at >= (START * FREQ_S + self.polls) * MICROSECONDS:
            return None
        at += MICROSECONDS
        batches = tuple(replace(empty_batch(name, 0), watermark_us=at) for name in places)
        return Step(batches, dict.fromkeys(places, Position(0, at)))


def _message(folder: Path, partitions: int, shards: int) -> float:
    """Return the core-microseconds of one message, in this process and in Prism, without start-up.

    A long and a short run are measured, and only their difference counts.
    """
    spent = []
    for polls in (_POLLS // 10, _POLLS):
        with _Children() as children:
            began_s = time.process_time()
            job = StreamJob(
                fleet.forecaster(), _Polls(partitions, polls), folder / str(polls), shards, runner="prism"
            )
            run_stream(job)
            spent.append(time.process_time() - began_s + children.spent_s())
    return 1e6 * (spent[1] - spent[0]) / ((_POLLS - _POLLS // 10) * partitions * shards)


class _Children:
    """The processor time of child processes that end during a ``with`` block."""

    def __enter__(self) -> _Children:
        self._before = psutil.Process().cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        return

    def spent_s(self) -> float:
        """Return the seconds since the block began."""
        now = psutil.Process().cpu_times()
        return float(
            now.children_user
            + now.children_system
            - self._before.children_user
            - self._before.children_system
        )
