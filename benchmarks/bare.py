"""The network alone: a torch loop over inputs that are there already, the state carried from call to call.

What the pipelines are measured against: a loop with all torch threads, every plain layout of it tried, and
the fastest counts. Loops side by side, each with its share of the threads, are what no single loop reaches;
they are measured, too, and told beside it.
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

WINDOWS = 32  # prepared; a loop goes round them


class Layout(NamedTuple):
    """How the fleet is cut into network calls.

    Attributes:
        series: series in one call.
        windows: windows in one call.
        loops: loops side by side, each with its share of the torch threads and of the series.
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
    """Series-steps per second of each layout, ``seconds`` each, on ``threads`` torch threads in total."""
    shard = series // shards
    layouts = [Layout(series, 1)]
    for loops in dict.fromkeys((1, threads)):
        layouts += [Layout(shard, windows, loops) for windows in (1, 8, windows_per_step)]
    model = fleet.forecaster()
    inputs = _inputs(model, series)
    return {layout: _rate(model, inputs, layout, threads, seconds) for layout in layouts}


def _inputs(model: Forecaster, series: int) -> Tensor:
    """``[WINDOWS, series, F]`` from the fleet's own values."""
    start = np.array([fleet.START])
    values = fleet.Fleet(series).values(WINDOWS)
    return torch.from_numpy(network_inputs(values, start, fleet.FREQ, model.network_config).x)


def _rate(model: Forecaster, inputs: Tensor, layout: Layout, threads: int, seconds: float) -> float:
    loops = [_Loop(model, inputs, layout, number, threads // layout.loops) for number in range(layout.loops)]
    steps = [0] * layout.loops
    start = threading.Barrier(layout.loops)
    began_s = [0.0] * layout.loops

    def work(number: int) -> None:
        loops[number].round()  # the first calls set things up
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
    """Steps its share of the shards, one call a shard and round."""

    def __init__(self, model: Forecaster, inputs: Tensor, layout: Layout, number: int, threads: int) -> None:
        self.network = model.network
        self.threads = threads
        shards = inputs.split(layout.series, dim=1)[number :: layout.loops]
        self.inputs = [cycle([part.contiguous() for part in shard.split(layout.windows)]) for shard in shards]
        self.states = [model.network.initial(shard.shape[1]) for shard in shards]

    def round(self) -> int:
        """One call a shard; the series-steps made."""
        torch.set_num_threads(self.threads)
        steps = 0
        with torch.inference_mode():
            for shard, (hidden, cell) in enumerate(self.states):
                x = next(self.inputs[shard])
                _, *after = self.network(x, hidden, cell)
                self.states[shard] = (after[0], after[1])
                steps += x.shape[0] * x.shape[1]
        return steps
