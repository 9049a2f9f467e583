"""Partitions of a log, whole, and the ways in which a job may come to read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from forecaster.batch import Batch
from forecaster.config import WindowConfig
from forecaster.windows import aggregate
from schemas import quarantine
from tests.fleets import HALF_A_DAY, HALF_A_DAY_US, fleets, rows_of, scales
from tests.folds import last_window


@dataclass(frozen=True)
class Log:
    """A partition, whole: what is at each of its offsets, and the watermarks between them.

    Attributes:
        partition: its name.
        rows, rejected: frames with ``offset``, as in a `Batch`.
        outside: offsets of rows outside the job's time; each is a batch of its own, as a source cuts them
            at the same places whenever it reads.
        watermarks_us: by the offset before which each comes; the last one closes every window.
    """

    partition: str
    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: tuple[int, ...]
    watermarks_us: Mapping[int, int]

    @property
    def stop(self) -> int:
        """One past the last offset."""
        return max(self.watermarks_us)

    def batches(self, cuts: Iterable[int] = (), start: int = 0) -> list[Batch]:
        """The log from ``start`` on, cut where a watermark is and at ``cuts``."""
        around = {place for offset in self.outside for place in (offset, offset + 1)}
        ends = {*self.watermarks_us, *around, *cuts}
        found = []
        for first, stop in pairwise([start, *sorted(end for end in ends if start < end <= self.stop)]):
            inside = pl.col("offset").is_between(first, stop - 1)
            found.append(
                Batch(
                    self.partition,
                    first,
                    stop,
                    self.rows.filter(inside),
                    self.rejected.filter(inside),
                    self.watermarks_us.get(stop),
                    sum(first <= offset < stop for offset in self.outside),
                )
            )
        return found


@dataclass(frozen=True)
class Logs:
    """Everything that goes into a job: its partitions, and how much each of its series moves."""

    parts: tuple[Log, ...]
    scale: dict[str, float]

    @property
    def partitions(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(log.partition for log in self.parts)

    def scale_of_sums(self) -> dict[str, float]:
        """How much each series moves where every row adds to its window, second rows of a time too."""
        rows = pl.concat([log.rows for log in self.parts]).drop("offset")
        sums = aggregate(rows, WindowConfig(freq=str(HALF_A_DAY), aggregate="sum")).windows
        return {**self.scale, **scales(sums)}

    def one_by_one(self) -> list[Batch]:
        """The batches of one partition after the other."""
        return [batch for log in self.parts for batch in log.batches()]


LONG_GAP = 40
"""A ``max_gap`` longer than `all_logs`, but for a row far away: that closes so many windows of silence."""


@st.composite
def all_logs(
    draw: st.DrawFn,
    partitions: int = 3,
    series: int = 5,
    windows: int = 24,
) -> Logs:
    """Rows spread over partitions: out of order, some late, twice, corrected or far away, some no rows.

    In windows of half a day, as `SHORT_WEEK` has them. The second row of a time may lie in another partition
    than the first.
    """
    fleet = draw(fleets(series, windows))
    fleet = replace(fleet, start=fleet.start // 12)
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rows_of(fleet, HALF_A_DAY_US)
    twice = chance.random(len(rows)) < draw(st.sampled_from([0.0, 0.3]))
    again = rows.filter(pl.Series(twice))
    # of one time and another value: the later one counts
    again = again.with_columns(
        pl.when(draw(st.booleans())).then(pl.col("value").reverse().over("series_id")).otherwise("value")
    )
    away = rows.head(draw(st.integers(0, 1))).with_columns(pl.col("timestamp") + pl.duration(days=2000))
    rows = pl.concat([rows, again, away]) if draw(st.booleans()) else pl.concat([rows, again])
    end_us = HALF_A_DAY.end_us(last_window([rows], HALF_A_DAY))
    names = [f"p{number}" for number in range(draw(st.integers(1, partitions)))]
    home = pl.Series(chance.integers(0, len(names), len(rows)))
    lateness_us, delay_us = (draw(st.integers(0, 4)) * HALF_A_DAY_US for _ in range(2))
    logs = [
        _log(name, rows.filter(home == number), lateness_us, delay_us, end_us, chance)
        for number, name in enumerate(names)
    ]
    return Logs(tuple(logs), scales(fleet))


def _log(
    partition: str,
    rows: pl.DataFrame,
    lateness_us: int,
    delay_us: int,
    end_us: int,
    chance: np.random.Generator,
) -> Log:
    """``rows`` as they come with delays, which the lateness allows or not, and what is no row among them."""
    kinds = np.repeat(["row", "bad", "file", "outside"], [len(rows), *chance.integers(0, 3, 3)])
    chance.shuffle(kinds)
    kinds = np.append(kinds, "outside")  # so that no log is empty
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    order = np.argsort(event_us + chance.integers(0, delay_us + 1, len(rows)), kind="stable")
    places = np.flatnonzero(kinds == "row")
    newest = np.maximum.accumulate(event_us[order])
    moves = chance.random(len(rows)) < 0.4
    watermarks_us = {
        int(place) + 1: int(us) - lateness_us for place, us in zip(places[moves], newest[moves], strict=True)
    }
    bad = np.flatnonzero((kinds == "bad") | (kinds == "file"))
    rejected = pl.DataFrame(
        {
            "file": [f"{partition}.csv"] * len(bad),
            "row": [int(place) + 1 if kinds[place] == "bad" else 0 for place in bad],
            "column": ["value"] * len(bad),
            "reason": [f"'{place}' is not {'a number' if place % 2 else 'finite'}" for place in bad],
            "kind": ["is not a number" if place % 2 else "value is infinite" for place in bad],
            "raw": ["{}"] * len(bad),
            "offset": bad,
        },
        schema=quarantine.SCHEMA | {"offset": pl.Int64()},
    )
    return Log(
        partition,
        rows[order].with_columns(offset=pl.Series(places, dtype=pl.Int64)),
        rejected,
        tuple(int(place) for place in np.flatnonzero(kinds == "outside")),
        watermarks_us | {len(kinds): end_us},
    )


def cut(draw: Any, log: Log, start: int = 0) -> list[Batch]:
    """A log in batches of any size."""
    return log.batches(draw(st.lists(st.integers(1, log.stop), max_size=6)), start)


def interleaved(draw: Any, parts: Iterable[Sequence[Batch]], early: bool = False) -> list[Batch]:
    """The batches of partitions in any order that keeps each partition's own, but for neighbours swapped."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queues = [list(part) for part in parts]
    for queue in queues if early else ():
        for at in np.flatnonzero(chance.random(max(len(queue) - 1, 0)) < 0.3):
            queue[at], queue[at + 1] = queue[at + 1], queue[at]
    turns = chance.permutation(np.repeat(np.arange(len(queues)), [len(queue) for queue in queues]))
    return [queues[turn].pop(0) for turn in turns]
