"""Helpers for tests of sources: small input files, a clock, and functions that read a log and compare it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forecaster.shards.batch import Batch
from pipelines.sources.base import Source

HOUR_US = 3_600_000_000
START = 376_944  # number of the hourly window that begins at 2013-01-01T00:00Z
NOW_S = 1.4e9  # a moment in May 2014, later than most rows of the tests

Row = tuple[Any, ...]


# With eq=False, two clocks are never equal, so sources with different clocks are not equal either.
# A cache keyed by sources therefore has no entry for a source with a new clock.
@dataclass(eq=False)
class Clock:
    """A clock that changes only when a test sets ``now_s``."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


def time_text(at: Any) -> str:
    """Return as text the time that is ``at`` hours after START; if ``at`` is already text, return it."""
    return at if isinstance(at, str) else f"{datetime.fromtimestamp((START + at) * 3600, UTC):%FT%TZ}"


def csv_text(rows: Iterable[Row]) -> str:
    """Return rows as the content of a CSV file; a row is a series id, hours after START, and a value."""
    lines = [f"{series},{time_text(at)},{value}" for series, at, value in rows]
    return "\n".join(["series_id,timestamp,value", *lines]) + "\n"


def write_file(path: Path, content: str | bytes | Iterable[Row], age_s: float = 60.0) -> Path:
    """Write a file whose modification time is ``age_s`` before NOW_S; return its path."""
    if not isinstance(content, str | bytes):
        content = csv_text(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def read_log(source: Source, offset: int = 0, steps: int = 1000) -> list[Batch]:
    """Read a source from ``offset`` and return its batches.

    Stop when the source has ended, when it has no batch ready, or after ``steps`` steps.
    """
    found: list[Batch] = []
    for _ in range(steps):
        step = source.step(offset)
        if step is None or not step.batches:
            break
        found += step.batches
        offset = step.reached
    return found


def values(batches: Iterable[Batch]) -> list[float]:
    return [value for batch in batches for value in batch.rows["value"]]


def reasons(batches: Iterable[Batch]) -> list[str]:
    return [reason for batch in batches for reason in batch.rejected["reason"]]


def watermark_hours(batches: Iterable[Batch]) -> list[float | None]:
    """Return the watermark after each batch in hours after START, or None for a batch without a watermark."""
    return [None if b.watermark_us is None else b.watermark_us / HOUR_US - START for b in batches]


ByOffset = dict[int, tuple[Any, ...]]
"""For each offset, the valid rows at this offset, the rejected rows, and the watermark before the offset."""


def by_offset(batches: Iterable[Batch], watermark_us: int | None = None) -> ByOffset:
    """Return a `ByOffset`: for each offset in the batches, the rows at it and the watermark before it.

    Assert that each batch begins at the offset at which the batch before it ends.
    """
    found: ByOffset = {}
    stop = None
    for batch in batches:
        assert stop is None or batch.start == stop
        stop = batch.stop
        assert batch.start <= stop
        for offset in range(batch.start, stop):
            found[offset] = ([], [], watermark_us)
        for rows, kind in ((batch.rows, 0), (batch.rejected, 1)):
            for row in rows.iter_rows(named=True):
                offset = row.pop("offset")
                found[offset][kind].append(tuple(row.values()))
        if batch.watermark_us is not None:
            watermark_us = batch.watermark_us
    return found
