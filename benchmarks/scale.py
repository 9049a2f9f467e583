"""Compute the resources for a fleet of any size from costs on this machine: ``python -m benchmarks.scale``.

The processor time of each part of a series-step is measured on one thread: decode and validate a row, step
it, write its forecast, write its share of a snapshot, and send an empty message from a poll to a shard on
Prism. The resources follow by arithmetic, which is printed with each result. ``--series`` and ``--every`` set
the size of the fleet and the length of a window. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine
from benchmarks.parts import Parts, measured
from forecaster.threads import compute_threads

_UTILISATION = 0.6  # share of the cores in use; the rest is for bursts and for catching up after a restart


class Demand(NamedTuple):
    """The amount of one resource that a fleet needs, and the arithmetic behind it."""

    name: str
    amount: float
    unit: str
    arithmetic: str


def demands(
    parts: Parts, series: int, every_s: float, *, partitions: int, shards: int, polls_s: float
) -> list[Demand]:
    """Return the demands of a fleet with a topic as its input.

    Args:
        parts: the measured costs.
        series: number of series.
        every_s: length of a window in seconds.
        partitions: number of partitions of the topic.
        shards: number of shards of the job.
        polls_s: polls per second; each poll sends every shard one message of every partition.
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


def main() -> int:
    """Print the measured costs, the demands with their arithmetic, and the JSON object."""
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
