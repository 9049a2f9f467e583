"""Compare the rates of this checkout with the rates of another checkout, such as the version before a change.

``python -m benchmarks.against FOLDER`` runs each phase of `benchmarks.throughput` in both checkouts, one
right after the other, in an order that alternates from round to round. So other work on the machine affects
both alike. FOLDER needs its own environment (``make setup`` there). A ratio is the median over the
rounds of (rate here / rate there). It takes about ten minutes on two cores. The last line of standard
output is one JSON object.

With ``TMPDIR=/dev/shm`` the phases write into memory. On a disk, the system spends between one and five
seconds of a phase on writing back its gigabyte of forecasts, and single rounds then differ by a third.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.targets import line

PHASES = ("bare", "backfill", "gappy", "whole", "stream", "watched")
"""The phases that are compared, by their names in `benchmarks.phases`."""

_LEAST_RATIO = 0.97


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("folder", type=Path, help="the other checkout, with its own .venv")
    parser.add_argument("--series", type=int, default=10_000, help="size of the fleet")
    parser.add_argument(
        "--windows", type=int, default=336, help="windows in each phase; a watched folder has 96"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each phase runs in each checkout")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="run only these")
    options = parser.parse_args(arguments)
    here, there = Path.cwd(), options.folder.resolve()
    print(machine.described(), flush=True)
    ratios: dict[str, list[float]] = {name: [] for name in options.phases}
    for turn in range(options.rounds):
        for name in options.phases:
            windows = min(options.windows, 96) if name == "watched" else options.windows
            order = (here, there) if turn % 2 == 0 else (there, here)
            rates = {checkout: _rate(checkout, name, options.series, windows) for checkout in order}
            ratios[name].append(rates[here] / rates[there])
            print(f"{name}: {rates[here]:,.0f} here, {rates[there]:,.0f} there", flush=True)
    medians = {name: statistics.median(several) for name, several in ratios.items()}
    print(f"\nrate of this checkout / rate of {there}; medians of {options.rounds} rounds")
    for name, ratio in medians.items():
        line(name, ratio, "at least", _LEAST_RATIO)
    print(json.dumps({name: round(ratio, 3) for name, ratio in medians.items()}))
    return 0


def _rate(checkout: Path, phase: str, series: int, windows: int) -> float:
    with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
        command = [str(checkout / ".venv/bin/python"), "-m", "benchmarks.throughput", f"--phase={phase}"]
        command += [f"--series={series}", f"--windows={windows}", f"--folder={folder}"]
        subprocess.run(command, cwd=checkout, check=True, stdout=sys.stderr)
        return float(json.loads((Path(folder) / "result.json").read_text())["rate"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
