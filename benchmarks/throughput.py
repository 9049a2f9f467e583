"""Series-steps per second of the bare network, backfill, stream and naive pipeline; and the stream's latency.

``python -m benchmarks.throughput`` measures all and takes about 6 minutes on two cores; ``--quick`` takes one
and is for seeing that it runs. The last line of standard output is one JSON object.

Bare, backfill and stream take turns, several rounds of them, and the median of each counts: a machine that is
busy with something else for a while then favours none of them. Every phase runs in a process of its own.
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

Results = dict[str, list[dict[str, Any]]]


class Size(NamedTuple):
    """Windows of the whole fleet in each phase; paced ones last a second each."""

    rounds: int
    windows: int
    naive: int
    paced: int


FULL = Size(rounds=3, windows=336, naive=2, paced=120)
QUICK = Size(rounds=1, windows=64, naive=1, paced=20)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it runs")
    parser.add_argument("--phase", choices=sorted(phases.PHASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--windows", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.phase:
        result = phases.run(chosen.phase, chosen.folder, chosen.windows)
        (chosen.folder / "result.json").write_text(json.dumps(result))
        return 0
    size = QUICK if chosen.quick else FULL
    where = machine.described()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
        results = _measure(size, Path(folder))
    _report(results, size, where)
    return 0


def _measure(size: Size, folder: Path) -> Results:
    results: Results = {}
    turns = [(name, size.windows) for _ in range(size.rounds) for name in ("bare", "backfill", "stream")]
    for name, windows in [*turns, ("naive", size.naive), ("paced", size.paced)]:
        began_s = time.monotonic()
        print(f"{name}: {windows} windows of {phases.SERIES:,} series ...", end="", flush=True)
        result = _phase(name, windows, folder)
        found = f"p99 {result['p99_ms']:.0f} ms" if name == "paced" else f"{result['rate']:,.0f} a second"
        print(f" {found} ({time.monotonic() - began_s:.0f} s)", flush=True)
        results.setdefault(name, []).append(result)
    return results


def _phase(name: str, windows: int, folder: Path) -> dict[str, Any]:
    inside = folder / name
    inside.mkdir()
    command = [sys.executable, "-m", "benchmarks.throughput", f"--phase={name}"]
    subprocess.run([*command, f"--folder={inside}", f"--windows={windows}"], check=True, stdout=sys.stderr)
    result: dict[str, Any] = json.loads((inside / "result.json").read_text())
    shutil.rmtree(inside)  # a gigabyte of forecasts
    return result


def _report(results: Results, size: Size, where: str) -> None:
    rate = {name: statistics.median(r["rate"] for r in results[name]) for name in results if name != "paced"}
    paced = results["paced"][0]
    backfill, stream = results["backfill"], results["stream"]
    growth = paced["rss_end_mb"] / paced["rss_start_mb"] - 1

    print(f"\n{where}\n{phases.SERIES:,} series; medians of {size.rounds}; rates in series-steps/s\n")
    print("bare network, by layout of its calls (the fastest single loop counts):")
    for layout in results["bare"][0]["layouts"]:
        _rate(statistics.median(r["layouts"][layout] for r in results["bare"]), f"  {layout}")
    _rate(rate["backfill"], "backfill, whole job, Parquet to Parquet")
    _rate(_median(backfill, "steady"), "  from its first file of forecasts to its last")
    _rate(rate["stream"], "stream, from the first rows released to the last forecast written")
    _rate(_median(stream, "with_start"), "  whole job, start-up of engine and pipeline included")
    _rate(rate["naive"], "naive: a key and a state a series; start-up excluded")
    print()
    _line("backfill / bare", rate["backfill"] / rate["bare"], "at least", 0.6)
    _line("backfill / naive", rate["backfill"] / rate["naive"], "at least", 50)
    _line("stream / bare", rate["stream"] / rate["bare"], "at least", 0.4)
    side_by_side = _median(results["bare"], "side_by_side")
    print(f"  against loops side by side in threads ({side_by_side:,.0f}), which no single loop reaches:")
    print(f"    backfill {rate['backfill'] / side_by_side:.2f}, stream {rate['stream'] / side_by_side:.2f}")
    print(f"\nstream paced at {phases.SERIES:,} series a second for {size.paced} s, due to written:")
    print(f"  p50 {paced['p50_ms']:.0f} ms, largest {paced['max_ms']:.0f} ms")
    _line("p99 (ms)", paced["p99_ms"], "below", 400)
    print(f"  memory {paced['rss_start_mb']:.0f} MiB half-way, {paced['rss_end_mb']:.0f} MiB at the end")
    _line("growth (%)", 100 * growth, "within", 5)
    summary: dict[str, float] = {name: round(rate[name]) for name in ("bare", "backfill", "stream", "naive")}
    for name in ("p50_ms", "p99_ms", "rss_start_mb", "rss_end_mb"):
        summary[name] = round(paced[name], 1)
    summary["state_bytes_per_series"] = round(phases.state_bytes_per_series())
    print(json.dumps(summary))


def _median(results: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(result[key] for result in results))


def _rate(rate: float, what: str) -> None:
    print(f"{rate:>12,.0f}  {what}")


def _line(name: str, value: float, relation: str, target: float) -> None:
    met = {"at least": value >= target, "below": value < target, "within": abs(value) <= target}[relation]
    print(f"  {name:<18}{value:>10.2f}   {relation} {target:g}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
