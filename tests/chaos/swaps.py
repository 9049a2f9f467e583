"""Kill a stream with a shadow while it changes its model version: before, at and after the change.

The stream follows the champion of a registry. The champion moves to another version, and the stream is
killed three times around the change: while the new version warms up, when it takes over, and a few windows
later. Then the champion moves back, and so on. A stream without kills reads the same files and gets the same
journal of changes. Both must have the same forecasts, those of the shadow too.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.registry.registry import Registry
from forecaster.time.window_config import WindowConfig
from pipelines.sinks.files import FORECASTS, SHADOW
from pipelines.sinks.numbers import read_shards
from pipelines.sources.model_changes import JOURNAL, read_changes
from pipelines.storage import markers, write_whole
from tests.chaos.kills import Ended, kill_some
from tests.chaos.restarted_stream import Stream
from tests.chaos.verdict import compare

_HOUR_US = 3_600_000_000
_FIRST = 376_944  # index of the first window, which begins on 2013-01-01
_SERIES = 200  # with so many series, the re-warm takes seconds, so a kill can hit it
_FIRST_WINDOWS = 340  # the first file has more windows than the ring holds
_MOST_UNREAD, _PACE_S = 2, 0.1
_WARMING, _CHANGING, _CHANGED = "while warming", "at the change", "after the change"
_PHASES = (_WARMING, _CHANGING, _CHANGED)
_LONGEST_DELAY_S = {_WARMING: 2.0, _CHANGING: 0.4, _CHANGED: 1.0}


def run(folder: Path, kills: int, seed: int) -> Ended:
    """Kill the stream up to ``kills`` times, and compare it with a stream without kills."""
    folder.mkdir(parents=True)
    registry = _registry(f"sqlite:///{folder}/mlflow.db")
    killed, clean = (_stream(folder, name) for name in ("killed", "clean"))
    swaps = _Swaps(killed, registry, random.Random(seed))
    print("swaps, first file without kills ...", flush=True)
    _copy_files(folder)
    _read_all(clean, swaps)
    names = kill_some(killed, kills, random.Random(seed), swaps.begin_phase, swaps.feed, swaps.is_due)
    print("swaps, rest without kills ...", flush=True)
    for _ in range(5):
        swaps.put()
    _read_all(killed, swaps)
    print("swaps, the same without kills ...", flush=True)
    shutil.copy(killed.output / "state" / JOURNAL, clean.output / "state" / JOURNAL)
    shutil.copytree(killed.output / markers.MODELS, clean.output / markers.MODELS, dirs_exist_ok=True)
    _copy_files(folder)
    _read_all(clean, swaps)
    changes = read_changes(killed.output / "state")
    if read_changes(clean.output / "state") != changes:
        raise SystemExit(f"{folder}: the streams with and without kills have different model changes")
    verdict = compare(killed.output, clean.output, (FORECASTS, SHADOW))
    return Ended(verdict, names, killed.recovery_s, len(changes) - 1)


def _registry(uri: str) -> Registry:
    """Return a registry with three versions of the model ``fleet``: 1 is champion and 3 is challenger."""
    registry = Registry(uri)
    network = NetworkConfig(hidden=16, layers=1, horizon=6)
    for seed in range(3):
        with registry.start_run(f"run {seed}", {}) as made:
            made.log_model(Forecaster.untrained(network, WindowConfig(), seed), "fleet", _rows(0, 3).head(9))
    registry.promote("fleet/1")
    registry.promote("fleet/3", "challenger")
    return registry


def _stream(folder: Path, name: str) -> Stream:
    watched = folder / f"in-{name}"
    watched.mkdir()
    options = [str(watched), "--watch", "--model", "fleet/1", "--follow", "champion", "--shards", "2"]
    options += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    options += ["--set", "stream.shadow=challenger", "--set", "stream.poll_s=0.2"]
    # A stream reads its alias at its start and then every 30 s. If only Prism were killed, the same stream
    # would go on, and might read the moved alias only 30 s later. So each kill ends the pipeline itself.
    return Stream(options, folder / name, victims=("pipeline", "both"))


def _copy_files(folder: Path) -> None:
    """Copy the input files of the killed stream to the input folder of the stream without kills."""
    shutil.copytree(folder / "in-killed", folder / "in-clean", dirs_exist_ok=True)


def _read_all(stream: Stream, swaps: _Swaps) -> None:
    """Run a stream until it has read all files, then stop it."""
    stream.run(lambda: stream.rows_in() >= swaps.windows * _SERIES)


class _Swaps:
    """The input files of the stream, the moves of the alias ``champion``, and the moments of the kills.

    Attributes:
        windows: number of windows whose rows are in the watched folder.
    """

    def __init__(self, stream: Stream, registry: Registry, rng: random.Random) -> None:
        self._stream, self._registry, self._rng = stream, registry, rng
        self._folder = Path(stream.arguments[0])
        self._phase, self._champion, self._count = "", 1, 0
        self._due_s = float("inf")
        self._put_s = 0.0
        self.windows = 0
        self.put(_FIRST_WINDOWS)

    def begin_phase(self, kills_left: int) -> None:
        """Begin the next phase; the stream starts after this call.

        A warming phase also moves the alias ``champion`` to the other version.
        """
        self._phase, self._due_s = _PHASES[self._count % len(_PHASES)], float("inf")
        self._count += 1
        if self._phase == _WARMING:
            self._champion = 3 - self._champion
            self._registry.promote(f"fleet/{self._champion}", why="chaos")
        print(f"  {self._phase}", flush=True)

    def put(self, windows: int = 1) -> None:
        """Put the rows of the next windows into the watched folder, as one file."""
        path = self._folder / f"{self.windows:05}.parquet"
        write_whole(path, _rows(self.windows, self.windows + windows).write_parquet)
        self.windows += windows
        self._put_s = time.monotonic()

    def feed(self, waits_for_input: bool) -> None:
        """Put the next file into the input folder, if the phase needs more rows.

        Put no file within `_PACE_S` seconds after the last, or while `_MOST_UNREAD` windows are unread.
        """
        unread = self.windows - self._stream.rows_in() // _SERIES
        if time.monotonic() - self._put_s < _PACE_S or unread >= _MOST_UNREAD:
            return
        change = self._change()
        # The rows of a window close the window before it. So in the phase `_WARMING`, once the change is
        # decided, put only rows of windows before ``change - 1``: then the stream does not reach the window
        # of the change.
        if self._phase != _WARMING or change is None or self.windows < change - 1:
            self.put()

    def is_due(self) -> bool:
        """Return whether the kill is due: a random time after the stream has reached the current phase."""
        if self._due_s == float("inf") and self._is_reached():
            self._due_s = time.monotonic() + self._rng.random() * _LONGEST_DELAY_S[self._phase]
        return time.monotonic() >= self._due_s

    def _is_reached(self) -> bool:
        change = self._change()
        if change is None or self._phase == _WARMING:
            return change is not None
        ends = [shard.closed_us or 0 for shard in read_shards(self._stream.output)]
        closed = min(ends, default=0) // _HOUR_US - 1 - _FIRST
        return closed >= (change - 1 if self._phase == _CHANGING else change + 1)

    def _change(self) -> int | None:
        """Return the window of the model change, counted from the first window; None before it is decided."""
        changes = read_changes(self._stream.output / "state")
        window = changes[-1].window if changes and changes[-1].model.endswith(f"/{self._champion}") else None
        return None if window is None else window - _FIRST


def _rows(start: int, stop: int) -> pl.DataFrame:
    """Return one row of each series for each window from ``start`` to ``stop - 1``; the first window is 0."""
    window, series = np.repeat(np.arange(start, stop), _SERIES), np.tile(np.arange(_SERIES), stop - start)
    noise = np.random.default_rng(start).normal(size=len(window)) / 10
    return pl.DataFrame(
        {
            "series_id": [f"s{number:03}" for number in series],
            "timestamp": pl.Series((_FIRST + window) * _HOUR_US).cast(pl.Datetime("us", "UTC")),
            "value": np.sin(2 * np.pi * (window + series) / 24) + noise,
        }
    )
