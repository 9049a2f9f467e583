"""Measure how much a job slows down beside two jobs of the same kind: ``python -m benchmarks.fairness``.

The jobs are a training, an evaluation and a stream of the weather example, each one command. Each job runs
alone first, then three of the same kind run at once. On two cores, each of three jobs gets two thirds of a
core, so a fair job takes 1.5 times as long as alone; it takes many times as long if threads spin while they
wait for work. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.targets import line
from pipelines.jobs.examples import write_example

_TOGETHER = 3
_MOST = 4.0  # target: at most so many times as long as alone
_STATECAST = (sys.executable, "-m", "pipelines.cli")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch, to see that it runs")
    quick = parser.parse_args(arguments).quick
    print(machine.described(), flush=True)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="statecast-fairness-") as place:
        folder = Path(place)
        data = write_example("weather", folder / "data")
        for kind in ("train", "evaluate", "stream"):
            alone_s = _seconds([_command(kind, folder, data, f"{kind}-alone", quick)])[0]
            several = [_command(kind, folder, data, f"{kind}-{n}", quick) for n in range(_TOGETHER)]
            beside_s = statistics.median(_seconds(several))
            print(f"{kind}: {alone_s:.1f} s alone, {beside_s:.1f} s beside two others", flush=True)
            line(f"{kind}, beside two / alone", beside_s / alone_s, "at most", _MOST)
            found[kind] = {"alone_s": round(alone_s, 1), "beside_s": round(beside_s, 1)}
    print(json.dumps(found))
    return 0


def _command(kind: str, folder: Path, data: Path, name: str, quick: bool) -> list[str]:
    """Return a command of a kind; commands share only their input and the trained model."""
    store = f"--tracking-uri=sqlite:///{folder / name}.db"
    epochs = f"training.epochs={1 if quick else 12 if kind == 'train' else 4}"
    if kind == "train":
        return [kind, str(data), "--end=2013-09-01", "--register=weather", store, "--set", epochs]
    if kind == "evaluate":
        rows = ["--train-rows=4000", "--test-rows=5000:6000", "--horizons=1,24"]
        return [kind, str(data), "--freq=1h", *rows, store, "--set", epochs]
    trained = f"--tracking-uri=sqlite:///{folder / 'train-alone'}.db"
    output = f"--output={folder / name}"
    return [kind, str(data), "--model=weather", trained, output, "--runner=in-process"]


def _seconds(commands: list[list[str]]) -> list[float]:
    """Start all commands at once; return the wall-clock seconds of each."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [*_STATECAST, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    took: dict[int, float] = {}
    while len(took) < len(running):
        for number, process in enumerate(running):
            if number not in took and process.poll() is not None:
                took[number] = time.monotonic() - began
                if process.returncode:
                    raise SystemExit(f"{' '.join(commands[number])}: {process.communicate()[1]}")
        time.sleep(0.05)
    return [took[number] for number in range(len(running))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
