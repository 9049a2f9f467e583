"""Measure the repair of late rows: ``python -m benchmarks.repair``.

A shard is stepped one window at a time, as in a stream, without files. Three shards of the same series take
turns: one without repair, one with ``windows.repair`` whose rows are in time, and one with ``windows.repair``
of whose rows a share arrives late. The ratios are medians over the turns of one run, in processor time, so
other work on the machine changes them little. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import polars as pl

from benchmarks import machine
from benchmarks.fleet import FREQ, FREQ_S, START, Fleet
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.models import Models
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import empty_batch
from forecaster.threads import compute_threads
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import MICROSECONDS

_WINDOWS_PER_STEP = 32


def batches(fleet: Fleet, windows: int, late: float, repair: int, seed: int = 1) -> list[Batch]:
    """Return one batch for each window, with the watermark at its end.

    Args:
        fleet: the series.
        windows: number of windows.
        late: share of the rows that arrive 1 to ``repair`` windows after their window has closed.
        repair: ``windows.repair``.
        seed: seed of the choice of late rows.
    """
    rng, values = np.random.default_rng(seed), fleet.values(windows)
    window, series = (array.reshape(-1) for array in np.indices(values.shape))
    delay = np.where(rng.random(values.size) < late, rng.integers(1, repair + 1, values.size), 0)
    names = pl.Series([f"series-{number:07d}" for number in range(fleet.series)])
    found, offset = [], 0
    for arrival in range(windows):
        at = np.flatnonzero(window + delay == arrival)
        rows = pl.DataFrame(
            {
                "series_id": names.gather(series[at]),
                "timestamp": pl.Series((START + window[at]) * FREQ_S * MICROSECONDS).cast(
                    pl.Datetime("us", "UTC")
                ),
                "value": values[window[at], series[at]],
                "offset": np.arange(offset, offset + len(at)),
            }
        )
        end_us = int(FREQ.end_us(START + arrival))
        batch = replace(empty_batch("rows", offset), stop=offset + len(at), rows=rows, watermark_us=end_us)
        found.append(batch)
        offset += len(at)
    return found


def timed(shard: Shard, some: list[Batch], models: Models) -> tuple[Shard, float]:
    """Apply batches to a shard; return the shard after them, and the seconds of processor time."""
    began_s = time.process_time()
    for batch in some:
        for after, _ in apply(shard, batch, models, _WINDOWS_PER_STEP):
            shard = after
    return shard, time.process_time() - began_s


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=1_250, help="series of the shard")
    parser.add_argument("--repair", type=int, default=24, help="windows.repair")
    parser.add_argument("--late", type=float, default=0.001, help="share of rows that arrive late")
    parser.add_argument("--turns", type=int, default=12, help="turns of one interval of copies each")
    settings = parser.parse_args(arguments)
    turn = 32  # a shard copies its state every 32 windows if windows.repair is at most 32
    fleet, windows = Fleet(settings.series), turn * (settings.turns + 2)
    model = Forecaster.untrained(NetworkConfig(), WindowConfig(freq=f"{FREQ_S}s"))
    in_time = batches(fleet, windows, 0.0, settings.repair)
    runs = {
        "off": (in_time, Models(model)),
        "on": (in_time, Models(model, repair=settings.repair)),
        "late": (
            batches(fleet, windows, settings.late, settings.repair),
            Models(model, repair=settings.repair),
        ),
    }
    with compute_threads(1):
        shards = {name: Shard.cold(0, 1, model.initial_state(), ["rows"]) for name in runs}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        repaired = []
        for number in range(settings.turns + 2):
            order = list(runs) if number % 2 else list(runs)[::-1]
            before = shards["late"].counts.repaired
            for name in order:
                every, models = runs[name]
                part = every[number * turn : (number + 1) * turn]
                shards[name], took_s = timed(shards[name], part, models)
                if number > 1:  # the first two turns fill the history of the shards and are not timed
                    seconds[name].append(took_s)
            if number > 1:
                repaired.append(shards["late"].counts.repaired - before)
    off, on, late = (np.array(seconds[name]) for name in runs)
    rows = turn * settings.series
    per_row_s = float(np.median((late - on) / np.array(repaired)))
    state, history = shards["on"].state, shards["on"].history
    assert history is not None
    result = {
        "series": settings.series,
        "repair": settings.repair,
        "rows_per_s": rows / float(np.median(off)),
        "rate_when_nothing_is_late": float(np.median(off / on)),
        "late_share": settings.late,
        "repaired_rows": int(sum(repaired)),
        "rate_with_late_rows": float(np.median(off / late)),
        "ms_per_repaired_row": 1e3 * per_row_s,
        "steps_per_repaired_row": per_row_s / (float(np.median(off)) / rows),
        "state_bytes_per_series": state.bytes_per_series,
        "history_bytes_per_series": history.bytes / settings.series,
    }
    print(
        json.dumps({key: round(value, 4) for key, value in result.items()} | {"machine": machine.described()})
    )
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
