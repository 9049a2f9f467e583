"""Decide from watermarks which rows are late, and which late rows are repaired.

A row is compared with the watermark that its partition had before the row, so a second read gives the same
late rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from forecaster.time.frequency import Frequency
from forecaster.time.windows import MICROSECONDS
from schemas import late

CLOSED: Final = "closed_before"
"""Column (Int64) of rows: the last window that their partition had closed before each row.

Rows have this column if late rows among them are repaired, or if they have event ids."""

BEFORE: Final = "before_us"
"""Column (Int64) of a batch's rows: the partition's watermark before each row.

A batch has this column only if the watermark moved between two of its rows and made a row late.
"""

NEVER: Final = -(1 << 62)
"""A watermark in microseconds that is before every row."""

NONE_LATE = late.empty()
_NO_WINDOWS = pl.Series("window", [], dtype=pl.Int64)


def smallest_watermark(watermarks_us: Iterable[int | None]) -> int | None:
    """Return the smallest watermark; None if any watermark is None, or if there is no watermark."""
    all_us = [*watermarks_us]
    known_us = [us for us in all_us if us is not None]
    return min(known_us) if known_us and len(known_us) == len(all_us) else None


def largest_watermark(watermarks_us: Iterable[int | None]) -> int | None:
    """Return the largest watermark that is not None; None if there is none."""
    return max((us for us in watermarks_us if us is not None), default=None)


@dataclass(frozen=True)
class Repair:
    """The limits that decide which late rows are repaired.

    Attributes:
        windows: the most windows, from the window of a row on, that the partition of the row may have closed.
        after: the earliest copy of the state was made after this window: only later windows can be repaired.
    """

    windows: int
    after: int


def split_late_rows(
    rows: pl.DataFrame,
    partition: str,
    before_us: int | None,
    closed_through: int | None,
    freq: Frequency,
    repair: Repair | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split rows into rows to use, with a column ``window``, and late rows that are not used.

    With ``repair``, late rows that are to be repaired are used. The column `CLOSED` is added to the rows if
    there are any such rows, or if the rows have event ids.

    Args:
        rows: observation frame with ``offset``, and with `BEFORE` if the watermark moved between two rows.
        partition: name of the rows' partition.
        before_us: watermark of the partition before the rows, in microseconds; None before its first.
        closed_through: index of the last closed window; None if none is closed.
        freq: length of a window.
        repair: which late rows are repaired; None repairs none.
    """
    if not len(rows):  # save time: a shard also gets the batches that have no rows of its series
        return rows.hstack([_NO_WINDOWS]), NONE_LATE
    window = freq.window_of(rows["timestamp"].cast(pl.Int64).to_numpy())
    rows = rows.hstack([pl.Series("window", window)])
    one_for_all = np.array([NEVER if before_us is None else before_us])
    before = rows[BEFORE].to_numpy() if BEFORE in rows.columns else one_for_all
    closed = np.maximum(freq.window_of(before) - 1, NEVER if closed_through is None else closed_through)
    is_late = window <= closed
    is_repaired = np.zeros(len(rows), bool)
    if repair is not None:
        is_repaired = is_late & (window > closed - repair.windows) & (window > repair.after)
        is_late &= ~is_repaired
    if is_repaired.any() or "event_id" in rows.columns:
        rows = rows.with_columns(pl.Series(CLOSED, np.broadcast_to(closed, window.shape)))
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
