"""Measure ``statecast compare`` on a large fleet: ``python -m benchmarks.compare``.

Two untrained models with different weights are compared on generated rows of a Parquet file. The benchmark
measures the time to read the rows, the time to aggregate them, to step both models and to score their
forecasts, and the largest memory of the process. ``series_windows_per_s`` counts a window of a series once,
although both models are stepped through it. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import machine
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig
from pipelines.jobs.compare import run_compare
from pipelines.jobs.progress import Progress
from pipelines.settings.config import JobConfig

_HOUR_US = 3_600_000_000
_FIRST = 400_000  # index of the first window of one hour


def write_rows(path: Path, series: int, windows: int) -> None:
    """Write one row of each series and window: a daily wave with noise."""
    window = np.repeat(np.arange(windows), series)
    number = np.tile(np.arange(series), windows)
    noise = np.random.default_rng(0).normal(size=len(window))
    pl.DataFrame(
        {
            "series_id": pl.Series([f"s{one:06d}" for one in range(series)] * windows),
            "timestamp": pl.Series((_FIRST + window) * _HOUR_US).cast(pl.Datetime("us", "UTC")),
            "value": 100 + 10 * np.sin(2 * np.pi * (window + number % 24) / 24) + noise,
        }
    ).write_parquet(path)


@dataclass
class Clock:
    """The times, in seconds, of the start, of the last row that was read, and of the last window."""

    began_s: float
    read_s: float = 0.0
    stepped_s: float = 0.0

    def take_rows(self, rows: int) -> None:
        """Record the time at which rows were read; a callback of the comparison."""
        self.read_s = time.perf_counter()

    def take_windows(self, windows: int) -> None:
        """Record the time at which both models were stepped through windows and scored; a callback."""
        self.stepped_s = time.perf_counter()


def main() -> int:
    """Compare two models, and print times, memory and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=240, help="hourly windows of each series")
    chosen = parser.parse_args()
    print(machine.described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="statecast-compare-") as name:
        folder = Path(name)
        write_rows(folder / "rows.parquet", chosen.series, chosen.windows)
        models = folder / "champion", folder / "challenger"
        for seed, path in enumerate(models):
            Forecaster.untrained(NetworkConfig(), WindowConfig(freq="1h"), seed).save(path)
        config = JobConfig.model_validate(
            {
                "data": {"paths": [str(folder / "rows.parquet")]},
                "mlflow": {"tracking_uri": f"sqlite:///{folder}/runs.db", "unsent": str(folder / "unsent")},
            }
        )
        with machine.MemorySampler() as memory:
            clock = Clock(time.perf_counter())
            progress = Progress(clock.take_rows, windows=clock.take_windows)
            compared = run_compare(config, str(models[0]), str(models[1]), progress)
            ended_s = time.perf_counter()
    found, steps = compared.comparison, chosen.series * chosen.windows
    result = {
        "series": chosen.series,
        "windows": chosen.windows,
        "issue_times": found.issues,
        "read_s": round(clock.read_s - clock.began_s, 1),
        "replay_and_score_s": round(clock.stepped_s - clock.read_s, 1),
        "champion_steps_s": round(found.costs[0].seconds, 1),
        "challenger_steps_s": round(found.costs[1].seconds, 1),
        "all_s": round(ended_s - clock.began_s, 1),
        "series_windows_per_s": round(steps / (clock.stepped_s - clock.read_s)),
        "mib_max": round(memory.most()),
    }
    for key, number in result.items():
        print(f"{key:24}{number:>14,}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
