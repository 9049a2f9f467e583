"""Where a stream's rows come from, step by step, without Beam: a replayed file, a watched folder.

A feed is asked for its next step from a position (a string of its own making) and answers with batches, the
position after them and the watermark that now holds. It keeps nothing that it could not make again, so a job
goes on from a position alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

import numpy as np
import polars as pl

from forecaster.windows import MICROSECONDS, window_end_us
from pipelines.coders import Batch
from pipelines.sources import formats, tables
from schemas import cells
from schemas.errors import DataError

_SETTLED_S = 1.0  # a file that nobody has written to for so long is taken as whole
_AHEAD_S = 86_400  # an observation cannot be from the future; clocks and zones may be off by so much


class Step(NamedTuple):
    """What a feed has next.

    Attributes:
        batches: rows, oldest announcement first; none while there is nothing to read.
        position: where to go on from.
        watermark_us: no row in time comes before this event time any more; None where nothing changed.
        wait_s: seconds until it is worth asking again.
        outside: rows left out because they lie outside the job's start and end.
        skipped: files left out because they could not be read.
    """

    batches: tuple[Batch, ...]
    position: str
    watermark_us: int | None
    wait_s: float
    outside: int = 0
    skipped: int = 0


class Feed(Protocol):
    """A source of rows; picklable, since it travels to the worker that reads."""

    @property
    def is_paced(self) -> bool:
        """Whether rows come in a time of their own; else a job's latency is the backlog that it works off."""

    def step(self, position: str) -> Step | None:
        """The next step from ``position`` ("" at the very start), or None at the end for good."""


@dataclass(frozen=True)
class Input:
    """What both feeds and the backfill know of files.

    Attributes:
        columns: which column is what.
        start_us, end_us: only rows in ``[start_us, end_us)`` are used; None for no bound.
        batch_rows: rows read at a time.
        skip_bad_files: leave out a file that cannot be read, instead of raising.
    """

    columns: tables.Columns
    start_us: int | None = None
    end_us: int | None = None
    batch_rows: int = 200_000
    skip_bad_files: bool = False

    def within(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """The rows inside the bounds or with a time that cannot be read, and the number of the others."""
        if self.start_us is None and self.end_us is None:
            return raw, 0
        at = cells.times(raw["timestamp"]).dt.epoch("us")
        outside = pl.Series(np.zeros(len(raw), bool))
        if self.start_us is not None:
            outside |= (at < self.start_us).fill_null(False)
        if self.end_us is not None:
            outside |= (at >= self.end_us).fill_null(False)
        kept = raw.filter(~outside)
        return kept, len(raw) - len(kept)

    def read(self, path: Path) -> Iterable[tuple[pl.DataFrame, int]]:
        """Raw frames of a file within the bounds, each with the number of rows left out.

        Raises:
            DataError: the file cannot be read.
        """
        return map(self.within, tables.read_batches(path, self.columns, self.batch_rows))


@dataclass(frozen=True)
class ReplayFeed:
    """Files played back in the order of their event times, at a chosen speed.

    Attributes:
        paths: the files; they are read into memory as a whole.
        input: how to read them.
        freq_s: length of a window in seconds.
        lateness_s: how far the watermark stays behind.
        speed: event-time seconds per second; 0 plays as fast as the job can follow.
        windows_per_step: most windows that are released at once; each time, every shard's state is read and
            written once.
        clock: wall clock, for tests.
        token: tells this replay from another of the same files, which begins at a time of its own.
    """

    paths: tuple[str, ...]
    input: Input
    freq_s: int
    lateness_s: int = 0
    speed: float = 0.0
    windows_per_step: int = 64
    clock: Callable[[], float] = time.time
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def is_paced(self) -> bool:
        """See `Feed`."""
        return self.speed > 0

    def step(self, position: str) -> Step | None:
        """See `Feed`; a position is the index of the next window to release."""
        plan = _plan(self)
        if not len(plan.windows):
            return (
                None if position else Step((Batch(plan.rows),), "end", None, 0.0, plan.outside, plan.skipped)
            )
        first_window, last_window = int(plan.windows[0]), int(plan.windows[-1])
        if position == "end":
            return None
        next_window = _window_of(position) if position else first_window
        if next_window > last_window:
            return None
        now_s = self.clock()
        plan.started_s = plan.started_s or (now_s - self._due_s(next_window, first_window))
        stop = next_window + self.windows_per_step
        arrived_s = now_s
        if self.speed:
            elapsed = (now_s - plan.started_s) * self.speed / self.freq_s
            stop = min(stop, first_window + int(elapsed) + 1)
            if stop <= next_window:
                due_s = plan.started_s + self._due_s(next_window, first_window)
                return Step((), str(next_window), None, max(due_s - now_s, 0.0))
            # Latency counts from when the rows were due, not from when the feed got round to them.
            arrived_s = plan.started_s + self._due_s(min(stop - 1, last_window), first_window)
        stop = min(stop, last_window + 1)
        low, high = np.searchsorted(plan.windows, [next_window, stop])
        begin = 0 if next_window == first_window else plan.offsets[low]  # rows without a time go first
        watermark_us = window_end_us(stop - 1, self.freq_s) - self.lateness_s * MICROSECONDS
        closes = [watermark_us]
        if stop > last_window:
            closes.append(window_end_us(last_window, self.freq_s))
        batch = Batch(plan.rows[begin : plan.offsets[high]], tuple(sorted(set(closes))), None, arrived_s)
        first = next_window == first_window
        return Step(
            (batch,), str(stop), watermark_us, 0.0, plan.outside if first else 0, plan.skipped if first else 0
        )

    def _due_s(self, window: int, first_window: int) -> float:
        return (window - first_window) * self.freq_s / self.speed if self.speed else 0.0


def _window_of(position: str) -> int:
    try:
        return int(position)
    except ValueError:
        raise DataError(
            "the state table was left by a stream that watched a folder: resume with --watch, or replay from "
            "it with --state and --start"
        ) from None


@dataclass
class _Plan:
    """A replay in memory: rows by event time, distinct windows, and where each begins (and the last ends)."""

    rows: pl.DataFrame
    windows: np.ndarray
    offsets: np.ndarray
    outside: int
    skipped: int
    started_s: float = 0.0


@lru_cache(maxsize=1)
def _plan(feed: ReplayFeed) -> _Plan:
    frames, outside, skipped = [], 0, 0
    for path in feed.paths:
        try:
            for raw, left_out in feed.input.read(Path(path)):
                frames.append(raw)
                outside += left_out
        except DataError:
            if not feed.input.skip_bad_files:
                raise
            skipped += 1
    rows = _together(frames)
    at = cells.times(rows["timestamp"]).dt.epoch("us")
    order = at.arg_sort(nulls_last=False)
    index = (at.gather(order) // (feed.freq_s * MICROSECONDS)).drop_nulls().to_numpy()
    windows, first = np.unique(index, return_index=True)
    offsets = np.append(first, len(index)) + at.null_count()
    return _Plan(rows[order], windows, offsets, outside, skipped)


def _together(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Raw frames of several files as one; columns that differ in type become text."""
    if not frames:
        return pl.DataFrame(schema={"series_id": pl.String, "timestamp": pl.String, "value": pl.String})
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for name, kind in frame.schema.items():
            kinds.setdefault(name, set()).add(kind)
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    same = [f.with_columns(cells.text(f[name]) for name in mixed & {*f.columns}) for f in frames]
    return pl.concat(same, how="diagonal", rechunk=True)


@dataclass(frozen=True)
class WatchFeed:
    """A folder that files are put into; each file is read once, in the order of names among the new ones.

    Names that begin with ``.`` or ``_`` and names of no known kind of file are left alone, so that a writer
    can write under such a name and rename; a file under its final name is read once nobody has written to it
    for a second. Rows more than a day in the future are quarantined: one wrong year would move the watermark
    past every row that is still to come.

    Attributes:
        folder: the folder.
        input: how to read its files.
        freq_s: length of a window in seconds.
        lateness_s: how far the watermark stays behind the newest row.
        poll_s: seconds between looks at the folder.
        clock: wall clock, for tests.
    """

    folder: str
    input: Input
    freq_s: int
    lateness_s: int = 0
    poll_s: float = 0.5
    clock: Callable[[], float] = time.time

    @property
    def is_paced(self) -> bool:
        """See `Feed`."""
        return True

    def step(self, position: str) -> Step | None:
        """See `Feed`; a position names the files that were read, and the watermark after them."""
        done, watermark_us = _files_of(position)
        file = self._next(frozenset(done))
        if file is None:
            return Step((), position, None, self.poll_s)
        frames: list[pl.DataFrame] = []
        latest: list[int | None] = []
        outside, skipped = 0, 0
        arrived_s = self.clock()
        try:
            for raw, left_out in self.input.read(file):
                rows, last_us = _not_ahead(raw, arrived_s)
                frames.append(rows)
                latest.append(last_us)
                outside += left_out
        except DataError:
            if not self.input.skip_bad_files:
                raise
            frames, latest, outside, skipped = [], [], 0, 1
        new = [us - self.lateness_s * MICROSECONDS for us in latest if us is not None]
        after = max([us for us in (watermark_us, *new) if us is not None], default=None)
        late_before = None if watermark_us is None else self._window_start(watermark_us)
        batches = [Batch(raw, (), late_before, arrived_s) for raw in frames]
        if after is not None and batches:
            batches[-1] = Batch(batches[-1].rows, (self._window_start(after),), late_before, arrived_s)
        there = json.dumps({"done": [*done, file.name], "watermark_us": after})
        return Step(tuple(batches), there, after, 0.0, outside, skipped)

    def _window_start(self, us: int) -> int:
        freq_us = self.freq_s * MICROSECONDS
        return us // freq_us * freq_us

    def _next(self, done: frozenset[str]) -> Path | None:
        try:
            names = sorted(path for path in Path(self.folder).iterdir() if path.name[0] not in "._")
        except OSError as error:
            raise DataError(f"{self.folder}: the watched folder is gone ({error.strerror})") from error
        settled_s = self.clock() - _SETTLED_S
        for path in names:
            if path.name in done or not formats.is_known(path) or not path.is_file():
                continue
            # One that is still being written comes before the others: they wait for it.
            return path if path.stat().st_mtime <= settled_s else None
        return None


def _files_of(position: str) -> tuple[list[str], int | None]:
    """The files that were read, and the watermark after them."""
    then = json.loads(position) if position.startswith("{") else {}
    if position and not then:
        raise DataError(
            "the state table was left by a replay of files: replay on, or watch a folder from it with --state"
        )
    return then.get("done", []), then.get("watermark_us")


def _not_ahead(raw: pl.DataFrame, now_s: float) -> tuple[pl.DataFrame, int | None]:
    """The rows, those from the future with a ``problem``, and the latest time of the others."""
    at = cells.times(raw["timestamp"])
    ahead = (at.dt.epoch("us") > (now_s + _AHEAD_S) * MICROSECONDS).fill_null(False)
    latest = at.filter(~ahead).dt.epoch("us").max()
    last_us = None if latest is None else int(latest)  # type: ignore[arg-type]
    if not ahead.any():
        return raw, last_us
    known = raw["problem"] if "problem" in raw.columns else pl.Series([None], dtype=pl.String)
    told = pl.format("'{}' is more than a day in the future", pl.lit(cells.text(raw["timestamp"])))
    problem = pl.when(ahead & known.is_null()).then(told).otherwise(known)
    return raw.with_columns(problem.alias("problem")), last_us
