"""Generate complete partitions with rows and watermarks, and orders in which a job may read their batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.time.aggregation import aggregate
from forecaster.time.window_config import WindowConfig
from schemas import quarantine
from tests.fleets import HALF_A_DAY, HALF_A_DAY_US, fleets, rows_of, scales
from tests.folds import last_window


@dataclass(frozen=True)
class Log:
    """A complete partition: its valid and rejected rows with their offsets, and its watermarks.

    Attributes:
        partition: the name of the partition.
        rows, rejected: frames with ``offset``, as in a `Batch`.
        outside: offsets of rows outside the time range of the job; each row is a separate batch, because a
            source cuts its batches at the same offsets whenever it reads.
        watermarks_us: watermarks by the offset before which each arrives; the last one closes every window.
    """

    partition: str
    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: tuple[int, ...]
    watermarks_us: Mapping[int, int]

    @property
    def stop(self) -> int:
        """Return the offset after the last offset of the log."""
        return max(self.watermarks_us)

    def batches(self, cuts: Iterable[int] = (), start: int = 0) -> list[Batch]:
        """Return the rows from offset ``start`` on as batches.

        Batches end at watermarks, at ``cuts``, and around each row outside the time range of the job.
        """
        around = {place for offset in self.outside for place in (offset, offset + 1)}
        ends = {*self.watermarks_us, *around, *cuts}
        frames = self.rows, self.rejected
        offsets = [frame["offset"].to_numpy() for frame in frames]
        assert all((np.diff(places) > 0).all() for places in offsets), "a log is sorted by offset"
        found = []
        for first, stop in pairwise([start, *sorted(end for end in ends if start < end <= self.stop)]):
            cuts_of = (np.searchsorted(places, (first, stop)) for places in offsets)
            rows, rejected = (frame[i:j] for frame, (i, j) in zip(frames, cuts_of, strict=True))
            outside = sum(first <= offset < stop for offset in self.outside)
            found.append(
                Batch(self.partition, first, stop, rows, rejected, self.watermarks_us.get(stop), outside)
            )
        return found


@dataclass(frozen=True)
class Logs:
    """The logs of all partitions that a job reads, and `fleets.scales` of the series for comparisons."""

    parts: tuple[Log, ...]
    scale: dict[str, float]

    @property
    def partitions(self) -> tuple[str, ...]:
        """Return the names of the partitions."""
        return tuple(log.partition for log in self.parts)

    def scale_of_sums(self) -> dict[str, float]:
        """Return `fleets.scales` of the series for the aggregate "sum": sums of rows vary more than means."""
        rows = pl.concat([log.rows for log in self.parts]).drop("offset")
        sums = aggregate(rows, WindowConfig(freq=str(HALF_A_DAY), aggregate="sum")).windows
        return {**self.scale, **scales(sums)}

    def one_by_one(self) -> list[Batch]:
        """Return the batches of all partitions, one partition after the other."""
        return [batch for log in self.parts for batch in log.batches()]


LONG_GAP = 40
"""A ``max_gap`` longer than the logs of `all_logs`; only a row that lies far ahead makes a longer gap."""


@st.composite
def all_logs(
    draw: st.DrawFn,
    partitions: int = 3,
    series: int = 5,
    windows: int = 24,
) -> Logs:
    """Generate logs of rows that may be disordered, late, repeated, corrected, far ahead, or invalid.

    The windows are half a day long, as in `SHORT_WEEK`. A repeated row may be in another partition than
    the first row.
    """
    fleet = draw(fleets(series, windows))
    fleet = replace(fleet, start=fleet.start // 12)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rows_of(fleet, HALF_A_DAY_US)
    repeated = rng.random(len(rows)) < draw(st.sampled_from([0.0, 0.3]))
    second_rows = rows.filter(pl.Series(repeated))
    # A second row has the time of the first row and, in some examples, another value. It is then a
    # correction: only one of the two rows counts, except with event ids or the aggregates "sum" and "count".
    second_rows = second_rows.with_columns(
        pl.when(draw(st.booleans())).then(pl.col("value").reverse().over("series_id")).otherwise("value")
    )
    far_ahead = rows.head(draw(st.integers(0, 1))).with_columns(pl.col("timestamp") + pl.duration(days=2000))
    rows = (
        pl.concat([rows, second_rows, far_ahead]) if draw(st.booleans()) else pl.concat([rows, second_rows])
    )
    end_us = HALF_A_DAY.end_us(last_window([rows], HALF_A_DAY))
    names = [f"p{number}" for number in range(draw(st.integers(1, partitions)))]
    home = pl.Series(rng.integers(0, len(names), len(rows)))
    lateness_us, delay_us = (draw(st.integers(0, 4)) * HALF_A_DAY_US for _ in range(2))
    logs = [
        _log(name, rows.filter(home == number), lateness_us, delay_us, end_us, rng)
        for number, name in enumerate(names)
    ]
    return Logs(tuple(logs), scales(fleet))


def _log(
    partition: str,
    rows: pl.DataFrame,
    lateness_us: int,
    delay_us: int,
    end_us: int,
    rng: np.random.Generator,
) -> Log:
    """Return a log of ``rows`` with random delays, invalid rows, and rows outside the job's time bounds.

    A delay is at most ``delay_us``, which may be longer than the lateness.
    """
    kinds = np.repeat(["row", "bad", "file", "outside"], [len(rows), *rng.integers(0, 3, 3)])
    rng.shuffle(kinds)
    kinds = np.append(kinds, "outside")  # append one row, so that no log is empty
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    order = np.argsort(event_us + rng.integers(0, delay_us + 1, len(rows)), kind="stable")
    places = np.flatnonzero(kinds == "row")
    newest = np.maximum.accumulate(event_us[order])
    moves = rng.random(len(rows)) < rng.choice([0.1, 0.4])
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
    """Return the batches of a log from offset ``start`` on; Hypothesis chooses their sizes."""
    return log.batches(draw(st.lists(st.integers(1, log.stop), max_size=6)), start)


def interleaved(draw: Any, parts: Iterable[Sequence[Batch]], early: bool = False) -> list[Batch]:
    """Return the batches of several partitions, interleaved at random.

    The batches of a partition stay in order. With ``early``, some neighbouring batches change places.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queues = [list(part) for part in parts]
    for queue in queues if early else ():
        for at in np.flatnonzero(rng.random(max(len(queue) - 1, 0)) < 0.3):
            queue[at], queue[at + 1] = queue[at + 1], queue[at]
    turns = rng.permutation(np.repeat(np.arange(len(queues)), [len(queue) for queue in queues]))
    return [queues[turn].pop(0) for turn in turns]
