"""Measure the dashboard on an output with many series: requests, a poll of a running job, and memory.

``python -m benchmarks.dashboard`` writes an output with a backfill, serves it with ``statecast dashboard``,
and sends the requests of the page. Times are medians of wall-clock milliseconds, with the answers' sizes. A
poll is what the page asks for every three seconds: the fleet and one series. Before a poll "after a step",
every snapshot and the newest two forecast files count as written again. Memory is resident memory of the
process. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil

from benchmarks import machine
from benchmarks.fleet import INPUT, Fleet, whole
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob

_ROUNDS = 7


def main(arguments: list[str]) -> int:
    """Print the figures, and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, help="use the output in this folder; write it if it is missing"
    )
    chosen = parser.parse_args(arguments)
    print(machine.described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
        output = chosen.output or Path(folder) / "out"
        if not output.exists():
            file = Fleet(chosen.series).write(Path(folder) / "rows.parquet", chosen.windows)
            run_backfill(BackfillJob(whole(), (str(file),), INPUT, output, chosen.shards))
        with _dashboard(output) as (url, process):
            figures = _measured(output, url, process, chosen.series)
    for name, value in figures.items():
        print(f"  {name:<24}{value:>12,.1f}")
    print(json.dumps({"series": chosen.series, **{name: round(value, 1) for name, value in figures.items()}}))
    return 0


@contextmanager
def _dashboard(output: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run ``statecast dashboard``, and yield its URL and its process."""
    command = [sys.executable, "-m", "pipelines.cli", "dashboard", str(output), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["url"], psutil.Process(server.pid)
        finally:
            server.terminate()


def _measured(output: Path, url: str, process: psutil.Process, series: int) -> dict[str, float]:
    last = f"series-{series - 1:07d}"
    paths = {
        "search_prefix": f"/api/series?q={quote(last[:-2])}",
        "search_part": f"/api/series?q={quote(last[-4:])}",
        "search_nothing": "/api/series?q=",
        "fleet": "/api/fleet",
        "series": f"/api/one?series_id={quote(last)}",
    }

    def poll() -> int:
        return _size(url + paths["fleet"]) + _size(url + paths["series"])

    def step() -> None:
        for part in ("state", "forecasts"):
            files = sorted((output / part).iterdir())
            for file in files if part == "state" else files[-2:]:
                os.utime(file)

    idle_mib = _mib(process)
    first_ms, _ = _ms(lambda: _size(f"{url}/") + poll())
    while json.loads(_read(url + paths["fleet"]))["alarms"]["unread_files"]:
        pass
    figures = {"idle_mib": idle_mib, "first_load_ms": first_ms}
    for name, path in paths.items():
        found = [_ms(lambda path=path: _size(url + path)) for _ in range(_ROUNDS)]  # type: ignore[misc]
        figures[f"{name}_ms"] = statistics.median(ms for ms, _ in found)
        figures[f"{name}_kb"] = found[0][1] / 1000
    unchanged, changed = [], []
    for _ in range(_ROUNDS):
        unchanged.append(_cpu_ms(process, poll))
        step()
        changed.append(_cpu_ms(process, poll))
    figures["poll_cpu_ms"] = statistics.median(unchanged)
    figures["poll_after_step_cpu_ms"] = statistics.median(changed)
    return figures | {"most_mib": _most_mib(process)}


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=600) as answer:
        content: bytes = answer.read()
        return content


def _size(url: str) -> int:
    return len(_read(url))


def _ms(call: Callable[[], int]) -> tuple[float, int]:
    """Return the wall-clock milliseconds of a call, and its result."""
    began = time.perf_counter()
    result = call()
    return (time.perf_counter() - began) * 1000, result


def _cpu_ms(process: psutil.Process, call: Callable[[], int]) -> float:
    """Return the processor milliseconds that a process spends on a call."""
    before = process.cpu_times()
    call()
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) * 1000


def _mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def _most_mib(process: psutil.Process) -> float:
    """Return the largest resident memory that a process has had."""
    for text in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if text.startswith("VmHWM:"):
            return float(text.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
