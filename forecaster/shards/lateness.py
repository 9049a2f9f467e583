"""Which rows come too late: decided by the watermark before each, so that a re-read decides alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import polars as pl

from forecaster.time.frequency import Frequency
from forecaster.time.windows import MICROSECONDS
from schemas import late

BEFORE: Final = "before_us"
"""Column (Int64) of a batch's rows: their partition's watermark before each, where one is late."""

NEVER: Final = -(1 << 62)
"""A watermark, in microseconds, before the first."""

NONE_LATE = late.empty()
_NO_WINDOWS = pl.Series("window", [], dtype=pl.Int64)


def least(watermarks_us: Iterable[int | None]) -> int | None:
    """The least of watermarks; None where one is not known, or there is none."""
    found = [*watermarks_us]
    known = [us for us in found if us is not None]
    return min(known) if known and len(known) == len(found) else None


def newest(watermarks_us: Iterable[int | None]) -> int | None:
    """The greatest of the watermarks that are known; None where none is."""
    return max((us for us in watermarks_us if us is not None), default=None)


def parted(
    rows: pl.DataFrame, partition: str, before_us: int | None, closed_through: int | None, freq: Frequency
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows (with ``window``) whose windows are open, and a frame of those that came too late for theirs.

    Args:
        rows: observation frame with ``offset``, and `BEFORE` where rows have watermarks of their own.
        partition: which they are of.
        before_us: its watermark before them in microseconds; None before its first.
        closed_through: index of the last closed window; None before the first.
        freq: length of a window.
    """
    if not len(rows):  # as in most parts of most polls
        return rows.hstack([_NO_WINDOWS]), NONE_LATE
    window = freq.window_of(rows["timestamp"].to_physical().to_numpy())
    rows = rows.hstack([pl.Series("window", window)])
    one_for_all = np.array([NEVER if before_us is None else before_us])
    before = rows[BEFORE].to_numpy() if BEFORE in rows.columns else one_for_all
    closed = np.maximum(freq.window_of(before) - 1, NEVER if closed_through is None else closed_through)
    is_late = window <= closed
    if not is_late.any():
        return rows, NONE_LATE
    closed_us = np.broadcast_to(np.maximum(before, freq.end_us(closed)), window.shape)
    columns = [*late.SCHEMA, *(["event_id"] if "event_id" in rows.columns else [])]
    too_late = (
        rows.with_columns(closed_us=closed_us)
        .filter(is_late)
        .with_columns(
            late_s=(pl.col("closed_us") - pl.col("timestamp").dt.epoch("us")) / MICROSECONDS,
            partition=pl.lit(partition),
        )
    )
    return rows.filter(~is_late), too_late.select(columns)
