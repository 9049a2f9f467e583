"""Measure the cost of each component of a forecaster: ``python -m benchmarks.online``.

A fleet steps through blocks of windows on one thread, as in the backfill of a shard. Every component is timed
separately, and so are the sums of the scores of earlier forecasts (``sums``). The last line of the output is
one JSON object with the microseconds per series-step and the bytes per series of each component, and with
``quality_share``, the share of the time that scores, sums and drift take.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks import machine
from forecaster.components.base import Block, Outputs
from forecaster.components.profile import Profile
from forecaster.components.scores import scored_horizons
from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.score_sums import scores_of
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows

_ROUNDS = 12
_START = 400_000
_PROFILE = 200  # windows of the training data from which the profile is computed
_SUMS = "sums"


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
    rng = np.random.default_rng(0)
    values = rng.normal(size=(_ROUNDS * options.windows, options.series)).cumsum(axis=0)
    ids = tuple(f"s{number:06d}" for number in range(options.series))
    profile = Profile.of(Windows(ids, _START - _PROFILE, rng.normal(size=(_PROFILE, options.series))))
    model = Forecaster.untrained(network, WindowConfig(), online=OnlineConfig(experts=EXPERTS))
    model = replace(model, profile=profile)
    parts = {part.name: part.init(options.series) for part in model.components}
    horizons, edges = scored_horizons(options.horizon), profile.edges_of(ids)
    spent_s: dict[str, list[float]] = {name: [] for name in (*parts, _SUMS)}
    for number in range(_ROUNDS):
        rows = slice(number * options.windows, (number + 1) * options.windows)
        shape = (options.windows, options.series, options.horizon)
        out = Outputs.empty(len(network.quantiles), 0, *shape, len(horizons))
        start = _START + rows.start
        block = Block(np.array([start]), values[rows], Frequency(3600), out=out, edges=edges)
        for part in model.components:
            began_s = time.perf_counter()
            parts[part.name], block = part.step(parts[part.name], block)
            spent_s[part.name].append(time.perf_counter() - began_s)
        forecasts = Forecasts(
            model.version, Frequency(3600), network.quantiles, ids, start, out.forecast,
            np.ones(shape[:2], bool), scored_horizons=horizons, scores=out.scores,
        )  # fmt: skip
        began_s = time.perf_counter()
        scores_of(forecasts)
        spent_s[_SUMS].append(time.perf_counter() - began_s)
    steps = options.windows * options.series
    found = {
        name: {
            "us": round(float(np.median(spent_s[name][2:])) / steps * 1e6, 3),
            "bytes": sum(a.nbytes for a in parts.get(name, {}).values()) // options.series,
        }
        for name in spent_s
    }
    for name, cost in found.items():
        sys.stdout.write(f"{name:24}{cost['us']:8.3f} us a series-step{cost['bytes']:8,} bytes a series\n")
    quality_us = sum(found[name]["us"] for name in ("scores", "drift", _SUMS))
    share = round(quality_us / sum(cost["us"] for cost in found.values()), 4)
    sys.stdout.write(f"scores, drift and sums take {share:.1%} of the time\n")
    sys.stdout.write(json.dumps({**found, "quality_share": share}) + "\n")


if __name__ == "__main__":
    main()
