"""What a fleet of any size needs, from parts that are measured here: ``python -m benchmarks.scale``.

Each part of a series-step is run on one thread and its processor time taken: decoding and validating its row,
stepping it, writing its forecast, its share of a snapshot; and what an empty message from a poll to a shard
costs on Prism. The rest is arithmetic, which is printed with it. ``--series`` and ``--every`` say of what
fleet; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import polars as pl
import psutil

from benchmarks import fleet, machine
from benchmarks.fleet import FREQ_S, START, Fleet
from benchmarks.kafka import messages
from forecaster.batch import Batch
from forecaster.shard import Shard, apply
from forecaster.sharding import no_batch
from forecaster.threads import compute_threads
from forecaster.windows import MICROSECONDS
from pipelines import snapshot_file
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import write_frame
from pipelines.sources.base import Place, Places, Stride
from pipelines.sources.files import validated
from pipelines.sources.messages import DecoderSpec, Messages, decoded

_SERIES, _WINDOWS = 2_500, 24
_POLLS = 300
_UTILISATION = 0.6  # of the cores: what is left is for snapshots, bursts, and the catching up after a restart


@dataclass(frozen=True)
class Parts:
    """What was measured.

    Attributes:
        decode_json_us, decode_arrow_us: core-microseconds to decode and validate a row.
        step_us: to fold it into its shard: window, network, linear part, experts, intervals, p-value.
        write_us: to write its forecast as Parquet.
        snapshot_us: to write a series in a snapshot.
        message_us: an empty message from a poll to a shard, on Prism.
        row_json_bytes, row_arrow_bytes: of a row in a topic.
        forecast_bytes: of a forecast on disk.
        state_bytes: of a series in memory.
        snapshot_bytes: of a series in a snapshot.
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


class Demand(NamedTuple):
    """What a fleet needs of one thing, and how it was worked out."""

    name: str
    amount: float
    unit: str
    arithmetic: str


def demands(
    parts: Parts, series: int, every_s: float, *, partitions: int, shards: int, polls_s: float
) -> list[Demand]:
    """What ``series`` that each have a window every ``every_s`` seconds need.

    Args:
        parts: as measured.
        series: how many.
        every_s: seconds of a window.
        partitions: of the topic that they come in.
        shards: of the job.
        polls_s: polls a second; each brings every shard a message of every partition.
    """
    rate = series / every_s
    a_step_us = parts.decode_arrow_us + parts.step_us + parts.write_us
    stepping = rate * a_step_us / 1e6
    snapshots = series * parts.snapshot_us / 1e6 / 60
    sent = polls_s * partitions * shards
    sending, keyed = sent * parts.message_us / 1e6, polls_s * shards * parts.message_us / 1e6
    cores = (stepping + snapshots + min(sending, keyed)) / _UTILISATION
    gb = 1e-9
    return [
        Demand("series-steps a second", rate, "/s", f"{series:,} / {every_s:g} s"),
        Demand(
            "decode, step, write",
            stepping,
            "cores",
            f"{rate:,.0f}/s x ({parts.decode_arrow_us:.2f} + {parts.step_us:.2f} + {parts.write_us:.2f}) us",
        ),
        Demand("a snapshot a minute", snapshots, "cores", f"{series:,} x {parts.snapshot_us:.2f} us / 60 s"),
        Demand(
            "messages, every partition to every shard",
            sending,
            "cores",
            f"{polls_s:g} polls/s x {partitions} x {shards} x {parts.message_us:.0f} us",
        ),
        Demand(
            "messages, keyed", keyed, "cores", f"{polls_s:g} polls/s x {shards} x {parts.message_us:.0f} us"
        ),
        Demand(
            "cores in all, keyed",
            math.ceil(cores),
            "cores",
            f"({stepping:.1f} + {snapshots:.1f} + {min(sending, keyed):.1f}) / {_UTILISATION}",
        ),
        Demand(
            "state in memory",
            series * parts.state_bytes * gb,
            "GB",
            f"{series:,} x {parts.state_bytes:,.0f} bytes",
        ),
        Demand(
            "state table", series * parts.snapshot_bytes * gb, "GB", f"x {parts.snapshot_bytes:,.0f} bytes"
        ),
        Demand(
            "snapshots written, one a minute",
            series * parts.snapshot_bytes / 60 * gb,
            "GB/s",
            f"{series:,} x {parts.snapshot_bytes:,.0f} bytes / 60 s",
        ),
        Demand(
            "topic in, Arrow",
            rate * parts.row_arrow_bytes * 1e-6,
            "MB/s",
            f"x {parts.row_arrow_bytes:.0f} bytes",
        ),
        Demand(
            "topic in, JSON",
            rate * parts.row_json_bytes * 1e-6,
            "MB/s",
            f"x {parts.row_json_bytes:.0f} bytes",
        ),
        Demand(
            "forecasts out, Parquet",
            rate * parts.forecast_bytes * 1e-6,
            "MB/s",
            f"x {parts.forecast_bytes:,.0f} bytes",
        ),
    ]


def measured(folder: Path) -> Parts:
    """Every part, on this machine; each the least of some rounds, in processor time."""
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
    """Microseconds of processor time."""
    spent = []
    for _ in range(rounds):
        began_s = time.process_time()
        run()
        spent.append(time.process_time() - began_s)
    return 1e6 * min(spent)


def _decoding(frame: pl.DataFrame, kind: str) -> tuple[float, float]:
    """Core-microseconds and bytes a row."""
    values = [value for value, _ in messages(frame, kind)]
    came, decode = Messages(values, [None] * len(values)), DecoderSpec(kind).decoder()
    raw = decoded(decode, came)
    rows = len(raw)

    def run() -> None:
        raw = decoded(decode, came)
        inside, _ = fleet.INPUT.within(raw.with_columns(pl.int_range(1, rows + 1).alias("row")))
        validated(inside, inside["message"], time.time_ns() // 1000, fleet.INPUT.max_future_s)

    return _least(run) / rows, sum(map(len, values)) / rows


def _stepping(shard: Shard, folder: Path) -> tuple[float, float, float, Shard]:
    """Core-microseconds a step and a forecast written, bytes of it, and the shard in the end.

    A window a batch, as in a stream that is up to date.
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
    empty, offset = no_batch("log", 0), 0
    for frame in Fleet(_SERIES).frames(_WINDOWS):
        for window in frame.partition_by("timestamp", maintain_order=True):
            stop = offset + len(window)
            rows = window.with_columns(pl.int_range(offset, stop).alias("offset"))
            end_us = window["timestamp"].to_physical()[0] + FREQ_S * MICROSECONDS
            yield Batch("log", offset, stop, rows, empty.rejected, watermark_us=end_us)
            offset = stop


@dataclass(frozen=True)
class _Polls:
    """Partitions that bring nothing but time."""

    partitions: int
    polls: int

    is_paced = False

    def begin(self, reached: Places) -> Places:
        return {f"partition-{number}": Place(0) for number in range(self.partitions)}

    def step(self, places: Places) -> Stride | None:
        at = max(place.watermark_us or START * FREQ_S * MICROSECONDS for place in places.values())
        if at >= (START * FREQ_S + self.polls) * MICROSECONDS:
            return None
        at += MICROSECONDS
        batches = tuple(replace(no_batch(name, 0), watermark_us=at) for name in places)
        return Stride(batches, dict.fromkeys(places, Place(0, at)))


def _message(folder: Path, partitions: int, shards: int) -> float:
    """Core-microseconds of one message, of this process and of Prism, less what the engine costs alone."""
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
    """The processor time of the engines that end while the ``with`` block lasts."""

    def __enter__(self) -> _Children:
        self._before = psutil.Process().cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        return

    def spent_s(self) -> float:
        """Seconds."""
        now = psutil.Process().cpu_times()
        return float(
            now.children_user
            + now.children_system
            - self._before.children_user
            - self._before.children_system
        )


def main() -> int:
    """Prints parts and arithmetic."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--series", type=int, default=10_000_000)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="length of a window")
    parser.add_argument("--partitions", type=int, default=128)
    parser.add_argument("--shards", type=int, default=512)
    parser.add_argument("--polls", type=float, default=2.0, help="polls a second")
    chosen = parser.parse_args()
    print(machine.described(), flush=True)
    with compute_threads(1), tempfile.TemporaryDirectory(prefix="statecast-scale-") as folder:
        (Path(folder) / "state").mkdir()
        parts = measured(Path(folder))
    for name, value in asdict(parts).items():
        print(f"{name:20}{value:12,.2f}")
    wanted = demands(
        parts, chosen.series, chosen.every,
        partitions=chosen.partitions, shards=chosen.shards, polls_s=chosen.polls,
    )  # fmt: skip
    print(f"\n{chosen.series:,} series, a window every {chosen.every:g} s")
    for one in wanted:
        print(f"{one.name:42}{one.amount:12,.1f} {one.unit:6} {one.arithmetic}")
    print(
        json.dumps(
            {
                **{name: round(value, 2) for name, value in asdict(parts).items()},
                "needs": {one.name: round(one.amount, 2) for one in wanted},
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
