"""Describe the machine of a benchmark, and sample the memory of a running job."""

from __future__ import annotations

import os
import statistics
import threading
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pipelines.workers.process import cores

EVERY_S = 1.0


def described() -> str:
    """Return date, cores, memory, load and versions in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )
    memory_gib = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "apache-beam", "polars"))
    at, load = f"{datetime.now():%Y-%m-%d %H:%M}", f"load {os.getloadavg()[0]:.1f} before"
    return f"{at}, {cores()} cores of {model}, {memory_gib:.0f} GiB, {load}; {packages}"


class MemorySampler:
    """Samples the resident memory of this process and its children each second during a ``with`` block.

    Attributes:
        samples: pairs of wall-clock time in seconds and memory in MiB.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def around(self, at_s: float) -> float:
        """Return the median, in MiB, of the five samples nearest to a wall-clock time."""
        nearest = sorted(self.samples, key=lambda sample: abs(sample[0] - at_s))[:5]
        return statistics.median(mib for _, mib in nearest)

    def most(self) -> float:
        """Return the largest sample, in MiB."""
        return max((mib for _, mib in self.samples), default=0.0)

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self.samples.append((time.time(), _tree_mib(psutil.Process())))


def _tree_mib(root: psutil.Process) -> float:
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # the child process has just ended
    return total / 2**20
