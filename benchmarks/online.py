"""Measure the cost of each component of a forecaster: ``python -m benchmarks.online``.

A fleet steps through blocks of windows on one thread, as in the backfill of a shard, and every component is
timed separately. The last line of the output is one JSON object with the microseconds per series-step and the
bytes per series of each component.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from benchmarks import machine
from forecaster.components.base import Block, Outputs
from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig
from forecaster.model import Forecaster
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig

_ROUNDS = 12
_START = 400_000


def main() -> None:
    """Print the cost of each component, and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--series", type=int, default=2_500)
    parser.add_argument(
        "--windows", type=int, default=4, help="windows in a block; an up-to-date stream has one"
    )
    parser.add_argument("--horizon", type=int, default=NetworkConfig().horizon)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(f"{machine.described()}\n")
    network = NetworkConfig(horizon=options.horizon)
    model = Forecaster.untrained(network, WindowConfig(), online=OnlineConfig(experts=EXPERTS))
    parts = {part.name: part.init(options.series) for part in model.components}
    rng = np.random.default_rng(0)
    values = rng.normal(size=(_ROUNDS * options.windows, options.series)).cumsum(axis=0)
    spent_s: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(_ROUNDS):
        rows = slice(number * options.windows, (number + 1) * options.windows)
        out = Outputs.empty(len(network.quantiles), 0, options.windows, options.series, options.horizon)
        block = Block(np.array([_START + rows.start]), values[rows], Frequency(3600), out=out)
        for part in model.components:
            began_s = time.perf_counter()
            parts[part.name], block = part.step(parts[part.name], block)
            spent_s[part.name].append(time.perf_counter() - began_s)
    steps = options.windows * options.series
    found = {
        part.name: {
            "us": round(float(np.median(spent_s[part.name][2:])) / steps * 1e6, 3),
            "bytes": sum(a.nbytes for a in parts[part.name].values()) // options.series,
        }
        for part in model.components
    }
    for name, cost in found.items():
        sys.stdout.write(f"{name:24}{cost['us']:8.3f} us a series-step{cost['bytes']:8,} bytes a series\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
