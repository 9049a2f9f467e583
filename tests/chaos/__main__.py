"""``python -m tests.chaos --kills 20 --seed 1``: weather and flights are streamed, killed and started again.

Two streams on Prism: a replay of shuffled weather, and flights that are put into a watched folder file by
file. Each is killed (SIGKILL of the pipeline, of Prism or of both, in the midst of a snapshot too) and
started by the same command, half of the kills each. At the end forecasts, counts, late and quarantined rows
must be those of a stream that was left alone. The last line is one JSON object.

What there is to read must last for all kills, on a fast machine and on a busy one. So each life gets a
share of
it: a file when the one before was read, and a replay at a speed that leaves the rest to the other lives.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.shards.counts import Counts
from pipelines.state import state_table
from tests.chaos import inputs
from tests.chaos.lives import Stream
from tests.chaos.verdict import Verdict, compare

_DAY_S = 86_400
_A_LIFE_S = 5.0  # the least that a life may take of a replay's time
_MOST_DAYS = 360  # of the example's year


@dataclass
class Ended:
    """The result of one stream."""

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
        ended = _rounds(_weather, folder / "weather", chosen.kills - chosen.kills // 2, chosen.seed)
        ended += _rounds(_flights, folder / "flights", chosen.kills // 2, chosen.seed)
    return _report(ended)


def _rounds(stream: Callable[[Path, int, int], Ended], folder: Path, kills: int, seed: int) -> list[Ended]:
    """Run streams until all kills are done; begin another stream only if one ended by itself before."""
    ended: list[Ended] = []
    while (left := kills - sum(len(one.killed) for one in ended)) > 0:
        ended.append(stream(folder / f"{len(ended)}", left, seed + len(ended)))
        if not ended[-1].killed:
            raise SystemExit(f"{folder}: came to its end before the first kill")
    return ended


def _weather(folder: Path, kills: int, seed: int) -> Ended:
    """Kill a stream that replays a file at limited speed; compare it with a replay at full speed."""
    days = min(max(60, 4 * kills), _MOST_DAYS)
    folder.mkdir(parents=True)
    inputs.write_weather(folder / "weather.csv", np.random.default_rng(seed), days)
    rows = (folder / "weather.csv").read_bytes().count(b"\n") - 1
    model = inputs.write_model(folder / "model", "mean", "missing")
    options = [str(folder / "weather.csv"), "--model", str(model), "--shards", "3"]
    print("weather, left alone ...", flush=True)
    Stream(options, folder / "clean").run(lambda: False)
    killed = Stream(options, folder / "killed")

    def slow_down(kills_left: int) -> None:
        share = (1 - _offset(killed, "replay") / rows) / (kills_left + 1)
        speed = share * days * _DAY_S / max(_A_LIFE_S, 2 * killed.longest_s)
        killed.more = ["--speed", f"{max(speed, 3600.0):.0f}"]

    names = _kill_some(killed, kills, random.Random(seed), slow_down)
    print("weather, to its end ...", flush=True)
    killed.more = []
    killed.run(lambda: False)
    return Ended(compare(folder / "killed", folder / "clean"), names, killed.recovery_s)


def _flights(folder: Path, kills: int, seed: int) -> Ended:
    """Kill a stream that reads a folder while files are put there; compare it with one that is not killed."""
    days = min(max(60, 3 * kills), _MOST_DAYS)
    files = inputs.write_flights(folder / "files", np.random.default_rng(seed), days)
    model = inputs.write_model(folder / "model", "sum", "zero")
    streams = {}
    for name in ("clean", "killed"):
        streams[name] = Stream.of_flights(folder / f"in-{name}", model, folder / name)
    for file in files:
        shutil.copy(file, folder / "in-clean" / file.name)
    print("flights, left alone ...", flush=True)
    rows_in = streams["clean"].run_until_quiet(0)
    killed = streams["killed"]
    feed = _Feed(files, folder / "in-killed", killed.output / "state" / "folder.jsonl")
    names = _kill_some(killed, kills, random.Random(seed + 1), feed.share, feed)
    print("flights, to their end ...", flush=True)
    feed.put_rest()
    killed.run_until_quiet(rows_in)
    return Ended(compare(folder / "killed", folder / "clean"), names, killed.recovery_s)


def _kill_some(
    stream: Stream,
    kills: int,
    chance: random.Random,
    before: Callable[[int], None],
    feed: Callable[[bool], None] = lambda needs: None,
) -> list[str]:
    """Kill a stream again and again, until it was killed ``kills`` times or has ended by itself.

    Args:
        stream: the stream; it is started again after each kill.
        kills: the number of kills.
        chance: see `Stream.live_and_lose`.
        before: called before each life with the number of kills left.
        feed: see `Stream.live_and_lose`.
    """
    killed: list[str] = []
    try:
        while len(killed) < kills:
            before(kills - len(killed))
            what = stream.live_and_lose(chance, feed)
            if not what:
                print(f"  came to its end after {len(killed)} kills of {kills}", flush=True)
                break
            killed.append(what)
            print(f"  kill {len(killed)}: {what}", flush=True)
    finally:
        stream.end()
    return killed


def _offset(stream: Stream, partition: str) -> int:
    """How far all shards have read a partition, by the snapshots."""
    states = stream.output / "state"
    return state_table.read(states, series=False).offset(partition) if state_table.exists(states) else 0


class _Feed:
    """Puts files into a watched folder as the stream reads them, a share of them in each life.

    Args:
        files: the files, in the order in which they are put.
        folder: the watched folder.
        manifest: the manifest of the stream, which has a line for each file that it has read.
    """

    def __init__(self, files: list[Path], folder: Path, manifest: Path) -> None:
        self._left, self._folder, self._manifest = list(files), folder, manifest
        self._put, self._share = 0, 0

    def share(self, kills_left: int) -> None:
        """Allow the next life of the stream an equal share of the files that are left."""
        self._share = max(len(self._left) // (kills_left + 1), 1)

    def __call__(self, needs: bool) -> None:
        """Put the next file if at most one is unread, and the life has a share left or ``needs`` a file."""
        if self._left and (self._share > 0 or needs) and self._put - self._read() <= 1:
            inputs.put(self._left.pop(0), self._folder)
            self._put += 1
            self._share -= 1

    def put_rest(self) -> None:
        """Put all files that are left."""
        for file in self._left:
            inputs.put(file, self._folder)
        self._left.clear()

    def _read(self) -> int:
        try:
            return self._manifest.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


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
