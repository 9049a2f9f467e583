"""``python -m tests.chaos --kills 20 --seed 1``: weather and flights are streamed, killed and started again.

Two streams on Prism: a replay of shuffled weather, and flights that are put into a watched folder file by
file. Each is killed (SIGKILL of the pipeline, of Prism or of both, in the midst of a snapshot too) and
started by the same command, half of the kills each. At the end forecasts, counts, late and quarantined rows
must be those of a stream that was left alone. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.counts import Counts
from tests.chaos import inputs
from tests.chaos.lives import Stream
from tests.chaos.verdict import Verdict, compare

_A_LIFE_S = 2.5  # of progress, about: what there is to read must last for so many lives


@dataclass
class Ended:
    """What became of one of the two streams."""

    verdict: Verdict
    killed: list[str]
    recovery_s: list[float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="statecast-chaos-") as temporary:
        folder = chosen.keep or Path(temporary)
        seconds = _A_LIFE_S * (chosen.kills / 2 + 2)
        weather = _weather(folder / "weather", chosen.kills - chosen.kills // 2, chosen.seed, seconds)
        flights = _flights(folder / "flights", chosen.kills // 2, chosen.seed, seconds)
    return _report([weather, flights])


def _weather(folder: Path, kills: int, seed: int, seconds: float) -> Ended:
    """A replay, paced so that it lasts; the stream that is left alone need not wait."""
    days = 60
    folder.mkdir(parents=True)
    inputs.write_weather(folder / "weather.csv", np.random.default_rng(seed), days)
    model = inputs.write_model(folder / "model", "mean", "missing")
    options = [str(folder / "weather.csv"), "--model", str(model), "--shards", "3"]
    print("weather, left alone ...", flush=True)
    Stream(options, folder / "clean").run(lambda: False)
    killed = Stream([*options, "--speed", str(round(days * 86_400 / seconds))], folder / "killed")
    names = _kill_some(killed, kills, random.Random(seed))
    print("weather, to its end ...", flush=True)
    Stream(options, folder / "killed").run(lambda: False)
    return Ended(compare(folder / "killed", folder / "clean"), names, killed.recovery_s)


def _flights(folder: Path, kills: int, seed: int, seconds: float) -> Ended:
    """A watched folder, filled at a pace that lasts; the stream that is left alone finds all files there."""
    files = inputs.write_flights(folder / "files", np.random.default_rng(seed), days=60)
    model = inputs.write_model(folder / "model", "sum", "zero")
    streams = {}
    for name in ("clean", "killed"):
        streams[name] = Stream.of_flights(folder / f"in-{name}", model, folder / name)
    for file in files:
        shutil.copy(file, folder / "in-clean" / file.name)
    print("flights, left alone ...", flush=True)
    rows_in = streams["clean"].run_until_quiet(0)
    with _fed(files, folder / "in-killed", seconds / len(files)):
        names = _kill_some(streams["killed"], kills, random.Random(seed + 1))
    print("flights, to their end ...", flush=True)
    streams["killed"].run_until_quiet(rows_in)
    return Ended(compare(folder / "killed", folder / "clean"), names, streams["killed"].recovery_s)


def _kill_some(stream: Stream, kills: int, chance: random.Random) -> list[str]:
    killed: list[str] = []
    try:
        while len(killed) < kills:
            what = stream.live_and_lose(chance)
            if not what:
                raise SystemExit(f"{stream.output}: came to its end after {len(killed)} kills")
            killed.append(what)
            print(f"  kill {len(killed)}: {what}", flush=True)
    finally:
        stream.end()
    return killed


@contextmanager
def _fed(files: list[Path], folder: Path, every_s: float) -> Iterator[None]:
    """Puts files into the folder in a thread; those that are left, when the block ends."""
    stop = threading.Event()

    def feed() -> None:
        for file in files:
            inputs.put(file, folder)
            stop.wait(every_s)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _report(ended: list[Ended]) -> int:
    holds = all(one.verdict.holds for one in ended)
    for one in ended:
        print(f"{'holds' if one.verdict.holds else 'FAILS'}: {one.verdict}")
    counts = sum((one.verdict.counts for one in ended), Counts())
    recovery_s = [s for one in ended for s in one.recovery_s]
    print(
        json.dumps(
            {
                "kills": sum(len(one.killed) for one in ended),
                "rows_in": counts.rows_in,
                "used": counts.used,
                "quarantined": counts.rejected,
                "duplicates": counts.duplicates,
                "late": counts.late,
                "lost": sum(one.verdict.lost for one in ended),
                "doubled": sum(one.verdict.doubled for one in ended),
                "max_abs_difference": max(one.verdict.max_abs_difference for one in ended),
                "recovery_s": round(statistics.median(recovery_s), 2) if recovery_s else None,
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
