"""Small files, a clock that stands still, and what it means that two readings of a log are the same."""

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
START = 376_944  # the window that begins with 2013, for windows of an hour
NOW_S = 1.4e9  # in 2014, after every row

Row = tuple[Any, ...]


@dataclass(eq=False)  # a source is looked up by its fields: with another clock it is in another process
class Clock:
    """A clock that stands still until it is told."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


def time_of(at: Any) -> str:
    """Hours after START as text; text stands for itself."""
    return at if isinstance(at, str) else f"{datetime.fromtimestamp((START + at) * 3600, UTC):%FT%TZ}"


def text_of(rows: Iterable[Row]) -> str:
    """A CSV file of a series, hours after START, and a value."""
    lines = [f"{series},{time_of(at)},{value}" for series, at, value in rows]
    return "\n".join(["series_id,timestamp,value", *lines]) + "\n"


def put(path: Path, content: str | bytes | Iterable[Row], age_s: float = 60.0) -> Path:
    """A file that was last written ``age_s`` before NOW_S."""
    if not isinstance(content, str | bytes):
        content = text_of(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def played(source: Source, offset: int = 0, steps: int = 1000) -> list[Batch]:
    """Batches until the source ends or has nothing ready, of at most ``steps`` steps."""
    found: list[Batch] = []
    for _ in range(steps):
        step = source.step(offset)
        if step is None or not step.batches:
            break
        found += step.batches
        offset = step.offset
    return found


def values(batches: Iterable[Batch]) -> list[float]:
    return [value for batch in batches for value in batch.rows["value"]]


def reasons(batches: Iterable[Batch]) -> list[str]:
    return [reason for batch in batches for reason in batch.rejected["reason"]]


def hours(batches: Iterable[Batch]) -> list[float | None]:
    """The watermark after each batch, in hours after START."""
    return [None if b.watermark_us is None else b.watermark_us / HOUR_US - START for b in batches]


Told = dict[int, tuple[Any, ...]]
"""Of every offset: its rows, those of them that are rejected, and the watermark before it."""


def told(batches: Iterable[Batch], watermark_us: int | None = None) -> Told:
    """What a reading says; its batches must follow one another without a gap."""
    found: Told = {}
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
