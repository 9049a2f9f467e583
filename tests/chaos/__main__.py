"""``python -m tests.chaos --kills 20 --seed 1``: kill streams at random moments and check their outputs.

Three streams run on Prism: a replay of shuffled weather, flights from files that are put into a watched
folder one by one, and a stream with a shadow that changes its model version (`tests.chaos.swaps`). A third of
the kills hits each stream. A kill is SIGKILL to the pipeline, to Prism or to both, sometimes while a snapshot
is written; the same command then starts the stream again. At the end, forecasts, counts, late rows and
quarantined rows must equal the outputs of a stream without kills. The last line of the output is one JSON
object.

The input must last until the last kill, on a fast machine and on a busy one. So each run between two kills
gets a share of the input: the replay has a limited speed, and a new file is put only after the stream has
read the earlier ones.
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
from pathlib import Path

import numpy as np

from forecaster.shards.counts import Counts
from pipelines.state import state_table
from tests.chaos import inputs, swaps
from tests.chaos.kills import Ended, kill_some
from tests.chaos.restarted_stream import Stream
from tests.chaos.verdict import compare

_DAY_S = 86_400
# The speed of the replay is chosen so that each run's share of the remaining rows takes at least 5 s to
# replay, unless that needs a speed below 3600. A kill may end the run earlier.
_SHORTEST_RUN_S = 5.0
_MOST_DAYS = 360  # the example data cover one year


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="statecast-chaos-") as temporary:
        folder = chosen.keep or Path(temporary)
        third = chosen.kills // 3
        ended = _rounds(_weather, folder / "weather", chosen.kills - 2 * third, chosen.seed)
        ended += _rounds(_flights, folder / "flights", third, chosen.seed)
        ended += _rounds(swaps.run, folder / "swaps", third, chosen.seed)
    return _report(ended)


def _rounds(stream: Callable[[Path, int, int], Ended], folder: Path, kills: int, seed: int) -> list[Ended]:
    """Run and kill streams, one after the other, until ``kills`` kills have happened; return their results.

    One stream may not be enough, because it may read all of its input before the last kill.
    """
    ended: list[Ended] = []
    while (left := kills - sum(len(one.killed) for one in ended)) > 0:
        ended.append(stream(folder / f"{len(ended)}", left, seed + len(ended)))
        if not ended[-1].killed:
            raise SystemExit(f"{folder}: the stream ended before the first kill")
    return ended


def _weather(folder: Path, kills: int, seed: int) -> Ended:
    """Kill a replay of limited speed up to ``kills`` times; compare it with a replay without kills."""
    days = min(max(60, 4 * kills), _MOST_DAYS)
    folder.mkdir(parents=True)
    inputs.write_weather(folder / "weather.csv", np.random.default_rng(seed), days)
    rows = (folder / "weather.csv").read_bytes().count(b"\n") - 1
    model = inputs.write_model(folder / "model", "mean", "missing")
    options = [str(folder / "weather.csv"), "--model", str(model), "--shards", "3"]
    print("weather, without kills ...", flush=True)
    Stream(options, folder / "clean").run(lambda: False)
    killed = Stream(options, folder / "killed")

    def slow_down(kills_left: int) -> None:
        share = (1 - _offset(killed, "replay") / rows) / (kills_left + 1)
        speed = share * days * _DAY_S / max(_SHORTEST_RUN_S, 2 * killed.longest_s)
        killed.more = ["--speed", f"{max(speed, 3600.0):.0f}"]

    names = kill_some(killed, kills, random.Random(seed), slow_down)
    print("weather, rest without kills ...", flush=True)
    killed.more = []
    killed.run(lambda: False)
    return Ended(compare(folder / "killed", folder / "clean"), names, killed.recovery_s)


def _flights(folder: Path, kills: int, seed: int) -> Ended:
    """Kill a stream that watches a folder, and compare it with a stream of the same files without kills."""
    days = min(max(60, 3 * kills), _MOST_DAYS)
    files = inputs.write_flights(folder / "files", np.random.default_rng(seed), days)
    model = inputs.write_model(folder / "model", "sum", "zero")
    streams = {}
    for name in ("clean", "killed"):
        streams[name] = Stream.of_flights(folder / f"in-{name}", model, folder / name)
    for file in files:
        shutil.copy(file, folder / "in-clean" / file.name)
    print("flights, without kills ...", flush=True)
    rows_in = streams["clean"].run_until_quiet(0)
    killed = streams["killed"]
    feed = _Feed(files, folder / "in-killed", killed.output / "state" / "folder.jsonl")
    names = kill_some(killed, kills, random.Random(seed + 1), feed.share, feed)
    print("flights, rest without kills ...", flush=True)
    feed.put_rest()
    killed.run_until_quiet(rows_in)
    return Ended(compare(folder / "killed", folder / "clean"), names, killed.recovery_s)


def _offset(stream: Stream, partition: str) -> int:
    """Return the offset that the snapshots of all shards have reached in a partition; 0 without snapshots."""
    states = stream.output / "state"
    return state_table.read(states, series=False).offset(partition) if state_table.exists(states) else 0


class _Feed:
    """Puts files into a watched folder: each run of the stream gets an equal share of the files.

    Args:
        files: the files, in the order in which they are put.
        folder: the watched folder.
        manifest: the manifest of the stream, which has a line for each file that it has read.
    """

    def __init__(self, files: list[Path], folder: Path, manifest: Path) -> None:
        self._left, self._folder, self._manifest = list(files), folder, manifest
        self._put, self._share = 0, 0

    def share(self, kills_left: int) -> None:
        """Set the number of files for the next run: an equal share of the remaining files, at least one.

        The remaining files are divided by ``kills_left + 1``.
        """
        self._share = max(len(self._left) // (kills_left + 1), 1)

    def __call__(self, waits_for_input: bool) -> None:
        """Put the next file into the folder, unless two are unread or the run has had its share of files.

        If the stream makes no progress without more input (``waits_for_input``), ignore the share.
        """
        if self._left and (self._share > 0 or waits_for_input) and self._put - self._read() <= 1:
            inputs.put(self._left.pop(0), self._folder)
            self._put += 1
            self._share -= 1

    def put_rest(self) -> None:
        """Put all remaining files into the watched folder."""
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
                "swaps": sum(one.swaps for one in ended),
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
