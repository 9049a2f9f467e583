"""Measure the rate of the network alone, of backfills, streams and a simple pipeline, and a stream's latency.

``python -m benchmarks.throughput`` takes about 15 minutes on two cores; ``--quick`` takes four minutes and
only checks that the benchmark works. The part with a broker needs ``make java``. Rates are series-steps per
second. The last line of standard output is one JSON object.

The phases run in turn, in several rounds, and the median of each phase counts, so that other work on the
machine affects all phases alike. Every phase runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine, phases
from benchmarks.targets import line
from pipelines.runners.java import kafka_jars
from schemas.errors import EngineError

Results = dict[str, list[dict[str, Any]]]

_TURNS = ("bare", "backfill", "gappy", "whole", "stream", "watched")


class Size(NamedTuple):
    """Number of rounds, and number of windows in each kind of phase; a paced window lasts one second."""

    rounds: int
    windows: int
    watched: int
    naive: int
    paced: int


FULL = Size(rounds=3, windows=336, watched=96, naive=2, paced=120)
QUICK = Size(rounds=1, windows=64, watched=16, naive=1, paced=20)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it runs")
    parser.add_argument("--series", type=int, default=10_000, help="size of the fleet")
    parser.add_argument("--windows", type=int, help="windows in a round; run only backfill and stream")
    parser.add_argument("--phase", choices=sorted(phases.PHASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.phase:
        result = phases.run(chosen.phase, chosen.folder, chosen.series, chosen.windows)
        (chosen.folder / "result.json").write_text(json.dumps(result))
        return 0
    size = QUICK if chosen.quick else FULL
    where = machine.described()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
        if chosen.windows:
            turns = [(name, chosen.windows) for name in ("backfill", "stream")]
        else:
            turns = [
                (name, size.watched if name == "watched" else size.windows)
                for _ in range(size.rounds)
                for name in _TURNS
            ]
            turns += [("naive", size.naive), ("paced", size.paced)]
        results = _measure(turns, chosen.series, Path(folder))
    print(f"\n{where}\n{chosen.series:,} series; rates in series-steps/s\n")
    summary: dict[str, Any] = _large(results) if chosen.windows else _report(results, size)
    if not chosen.windows:
        summary["kafka"] = _through_kafka(chosen.quick, chosen.series)
    print(json.dumps({"series": chosen.series, **summary}))
    return 0


def _through_kafka(quick: bool, series: int) -> Any:
    """Run `benchmarks.kafka` and return its JSON object; return None if Kafka is not installed."""
    try:
        kafka_jars()
    except EngineError as error:
        print(f"\nkafka: skipped: {error}")
        return None
    print("\nthrough a broker, in and out")
    command = [sys.executable, "-m", "benchmarks.kafka", f"--series={series}", *["--quick"] * quick]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for last in process.stdout:
            if not last.startswith("{"):
                print(last, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"benchmarks.kafka ended with {process.returncode}")
    return json.loads(last)


def _measure(turns: list[tuple[str, int]], series: int, folder: Path) -> Results:
    results: Results = {}
    for name, windows in turns:
        began_s = time.monotonic()
        print(f"{name}: {windows} windows of {series:,} series ...", end="", flush=True)
        result = _phase(name, series, windows, folder)
        found = f"p99 {result['p99_ms']:.0f} ms" if name == "paced" else f"{result['rate']:,.0f} a second"
        print(f" {found} ({time.monotonic() - began_s:.0f} s)", flush=True)
        results.setdefault(name, []).append(result)
    return results


def _phase(name: str, series: int, windows: int, folder: Path) -> dict[str, Any]:
    inside = folder / name
    inside.mkdir()
    command = [sys.executable, "-m", "benchmarks.throughput", f"--phase={name}", f"--series={series}"]
    subprocess.run([*command, f"--folder={inside}", f"--windows={windows}"], check=True, stdout=sys.stderr)
    result: dict[str, Any] = json.loads((inside / "result.json").read_text())
    shutil.rmtree(inside)  # free the disk of a gigabyte of forecasts
    return result


def _large(results: Results) -> dict[str, float]:
    summary: dict[str, float] = {}
    for name, (result,) in results.items():
        _rate(result["rate"], f"{name}, at most {result['rss_most_mb']:,.0f} MiB of memory")
        summary |= {name: round(result["rate"]), f"{name}_rss_most_mb": round(result["rss_most_mb"])}
    return summary


def _report(results: Results, size: Size) -> dict[str, float]:
    rate = {name: _median(results[name], "rate") for name in results if name != "paced"}
    side_by_side = _median(results["bare"], "side_by_side")
    with_start = _median(results["stream"], "with_start")
    paced = results["paced"][0]
    growth = paced["rss_end_mb"] / paced["rss_start_mb"] - 1

    print(f"medians of {size.rounds} rounds")
    print("bare network, by layout of its calls:")
    for layout in results["bare"][0]["layouts"]:
        _rate(statistics.median(r["layouts"][layout] for r in results["bare"]), f"  {layout}")
    _rate(side_by_side, "the fastest layout of each round: one loop or parallel loops")
    _rate(rate["backfill"], "backfill, whole job, Parquet to Parquet")
    _rate(rate["gappy"], "  fleet with 5 % of rows missing and 2 % of series that begin late")
    _rate(rate["whole"], "  default forecaster: with linear part, experts, intervals, p-values")
    _rate(rate["stream"], "stream, from the first rows to the last written forecast")
    _rate(with_start, "  whole job, with the start-up of engine and pipeline")
    _rate(rate["watched"], "watched folder, one file per window, from the first rows to the last forecast")
    _rate(rate["naive"], "naive: one key and one state per series; without start-up")
    print()
    line("backfill / side by side", rate["backfill"] / side_by_side, "at least", 0.50)
    line("stream / side by side", rate["stream"] / side_by_side, "at least", 0.42)
    line("gappy / backfill", rate["gappy"] / rate["backfill"], "at least", 0.9)
    line("backfill / naive", rate["backfill"] / rate["naive"], "at least", 50)
    print(
        f"\nstream paced at one window per second for {size.paced} s, with snapshots; latency until written:"
    )
    line("p50 (ms)", paced["p50_ms"], "below", 120)
    line("p99 (ms)", paced["p99_ms"], "below", 250)
    print(f"  largest {paced['max_ms']:.0f} ms; a snapshot of a shard took {paced['snapshot_ms']:.0f} ms")
    print(f"  memory {paced['rss_start_mb']:.0f} MiB half-way, {paced['rss_end_mb']:.0f} MiB at the end")
    line("growth (%)", 100 * growth, "within", 5)
    summary: dict[str, float] = {"bare": round(rate["bare"]), "side_by_side": round(side_by_side)}
    summary |= {name: round(rate[name]) for name in ("backfill", "gappy", "whole", "stream")}
    summary["stream_with_start"] = round(with_start)
    summary |= {name: round(rate[name]) for name in ("watched", "naive")}
    for name in ("p50_ms", "p99_ms", "snapshot_ms", "rss_start_mb", "rss_end_mb"):
        summary[name] = round(paced[name], 1)
    summary["state_bytes_per_series"] = round(phases.state_bytes_per_series())
    return summary


def _median(results: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(result[key] for result in results))


def _rate(rate: float, what: str) -> None:
    print(f"{rate:>12,.0f}  {what}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
