"""Measure the network alone: a torch loop over prepared inputs that keeps the state from call to call.

The pipelines are compared with these rates. One loop that uses all torch threads is measured in several
layouts, and the fastest one counts. Parallel loops that share the threads are faster than any single loop;
they are measured and reported separately.
"""

from __future__ import annotations

import threading
import time
from itertools import cycle
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import fleet
from forecaster.components.network.inputs import network_inputs
from forecaster.model import Forecaster

WINDOWS = 32  # windows with prepared inputs, which a loop repeats


class Layout(NamedTuple):
    """How the fleet is cut into network calls.

    Attributes:
        series: series in one call.
        windows: windows in one call.
        loops: parallel loops, each with an equal share of the torch threads and of the series.
    """

    series: int
    windows: int
    loops: int = 1

    def __str__(self) -> str:
        side = f", {self.loops} loops side by side" if self.loops > 1 else ""
        return f"{self.series:,} series x {self.windows} windows a call{side}"


def measure(
    series: int, threads: int, shards: int, windows_per_step: int, seconds: float
) -> dict[Layout, float]:
    """Return series-steps per second by layout; each layout runs ``seconds`` on ``threads`` torch threads."""
    shard = series // shards
    layouts = [Layout(series, 1)]
    for loops in dict.fromkeys((1, threads)):
        layouts += [Layout(shard, windows, loops) for windows in (1, 8, windows_per_step)]
    model = fleet.forecaster()
    inputs = _inputs(model, series)
    return {layout: _rate(model, inputs, layout, threads, seconds) for layout in layouts}


def _inputs(model: Forecaster, series: int) -> Tensor:
    """Return network inputs ``[WINDOWS, series, F]`` computed from the values of the fleet."""
    start = np.array([fleet.START])
    values = fleet.Fleet(series).values(WINDOWS)
    return torch.from_numpy(network_inputs(values, start, fleet.FREQ, model.network_config).x)


def _rate(model: Forecaster, inputs: Tensor, layout: Layout, threads: int, seconds: float) -> float:
    loops = [_Loop(model, inputs, layout, number, threads // layout.loops) for number in range(layout.loops)]
    steps = [0] * layout.loops
    start = threading.Barrier(layout.loops)
    began_s = [0.0] * layout.loops

    def work(number: int) -> None:
        loops[number].round()  # not timed: the first calls initialize torch
        start.wait()
        began_s[number] = time.perf_counter()
        while time.perf_counter() < began_s[number] + seconds:
            steps[number] += loops[number].round()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(layout.loops)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(steps) / (time.perf_counter() - min(began_s))


class _Loop:
    """A loop that steps its share of the shards, with one network call for each shard in a round."""

    def __init__(self, model: Forecaster, inputs: Tensor, layout: Layout, number: int, threads: int) -> None:
        self.network = model.network
        self.threads = threads
        shards = inputs.split(layout.series, dim=1)[number :: layout.loops]
        self.inputs = [cycle([part.contiguous() for part in shard.split(layout.windows)]) for shard in shards]
        self.states = [model.network.initial(shard.shape[1]) for shard in shards]

    def round(self) -> int:
        """Call the network once for each shard; return the number of series-steps."""
        torch.set_num_threads(self.threads)
        steps = 0
        with torch.inference_mode():
            for shard, (hidden, cell) in enumerate(self.states):
                x = next(self.inputs[shard])
                _, *after = self.network(x, hidden, cell)
                self.states[shard] = (after[0], after[1])
                steps += x.shape[0] * x.shape[1]
        return steps
