"""Find duplicates: rows that do not count, because another row has their series and their time or event."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import polars as pl

from forecaster.time.window_config import WindowConfig
from schemas.observations import covariates_of

Keep = Literal["first", "last"]
"""Which row of an observation counts: ``data.duplicates``."""

EVENTS = ("sum", "count")
"""Aggregates that count every row as an event, even if two rows have the same time."""

ORIGIN = "origin"
"""Column (Int64) that identifies the file and the place of a row.

Rows have this column if a file may be read again, with more rows, under the same name.
"""

OFFSET = "offset"
"""Column (Int64) of a row's offset; the row with the larger offset is the later row."""

PARTITION = "partition"
"""Column (String) of a row's partition: at equal offsets, the row of the greater partition name is later."""

DROPPED: Final[dict[str, pl.DataType]] = {
    "dropped_in": pl.String(),
    "dropped_at": pl.Int64(),
    "replaced_by": pl.Float64(),
}
"""Columns of rows among which another version of the same event was found, which counts.

``dropped_in`` and ``dropped_at`` are the partition and the offset of the later one of the two rows; null if
the row counts. ``replaced_by`` is the value of the row that counts; null if the two rows are equal.
"""


class Duplicates(NamedTuple):
    """How many rows are duplicates, which do not count, and the frame of the duplicates that were replaced.

    A row is a duplicate if another row, which counts, belongs to the same observation or event.

    Attributes:
        dropped: the number of these rows.
        replaced: the rows among them whose value, covariates or time differ from the row that counts, with
            the value of that row in ``replaced_by``; the others are exact copies.
    """

    dropped: int
    replaced: pl.DataFrame


NO_DUPLICATES = Duplicates(0, pl.DataFrame())
"""No duplicates: every row counts."""


def has_dropped(rows: pl.DataFrame) -> bool:
    """Return whether any of the rows is marked (`DROPPED`) because another version of its event counts."""
    return "dropped_at" in rows.columns and rows["dropped_at"].null_count() < len(rows)


def split_duplicates(
    rows: pl.DataFrame, config: WindowConfig, keep: Keep = "last"
) -> tuple[pl.DataFrame, Duplicates]:
    """Return the rows that count, and the other rows as `Duplicates`.

    Of the rows of one observation, the row with the largest offset counts, or with ``keep="first"`` the row
    with the smallest. Rows whose columns `DROPPED` are set never count.

    Args:
        rows: rows with ``cell`` (the series and the window), ``timestamp``, ``value`` and ``offset``.
        config: which aggregate; with ``sum`` and ``count``, rows without an ``event_id`` are events.
        keep: which row of an observation counts.
    """
    parts = []
    if has_dropped(rows):
        parts.append(rows.filter(pl.col("dropped_at").is_not_null()))
        rows = rows.filter(pl.col("dropped_at").is_null())
    identity, rows = _with_identity(rows, config)
    if identity and len(rows):
        rows, dropped = _one_of_each(rows, identity, keep)
        parts += [dropped] if len(dropped) else []
    if not parts:
        return rows, NO_DUPLICATES
    every = pl.concat(parts, how="diagonal") if len(parts) > 1 else parts[0]
    return rows, Duplicates(len(every), every.filter(pl.col("replaced_by").is_not_null()))


def content_of(rows: pl.DataFrame) -> list[str]:
    """Return the columns in which two rows of one series and time, or of one event, can differ."""
    time = ["timestamp"] if "event_id" in rows.columns else []
    return ["value", *covariates_of(rows.columns), *time]


def _one_of_each(rows: pl.DataFrame, identity: list[str], keep: Keep) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that count, one for each value of the columns ``identity``, and the other rows.

    The other rows have the added column ``replaced_by``, see `DROPPED`.
    """
    place = [OFFSET]
    if PARTITION in rows.columns and rows[PARTITION].n_unique() > 1:
        place.append(PARTITION)
    # Sort by content, too: early releases stored no partitions, so their rows may have equal offsets.
    content = content_of(rows)
    rows = rows.sort(*identity, *place, *content, nulls_last=False)
    number = rows.select(pl.struct(identity).rle_id()).to_series()
    counts = (number != number.shift(-1 if keep == "last" else 1)).fill_null(True)
    if counts.all():
        return rows, rows.clear()
    of_counting = pl.all().last() if keep == "last" else pl.all().first()
    numbered = rows.with_columns(number=number)
    counting = numbered.select("number", *content).group_by("number").agg(of_counting)
    dropped = numbered.filter(~counts).join(counting, on="number", suffix=" used", maintain_order="left")
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name} used")) for name in content)
    dropped = dropped.with_columns(replaced_by=pl.when(differs).then("value used"))
    return rows.filter(counts), dropped.drop("number", *(f"{name} used" for name in content))


def _with_identity(rows: pl.DataFrame, config: WindowConfig) -> tuple[list[str], pl.DataFrame]:
    """Return the names of the columns that identify an observation or event, and the rows with these columns.

    The column ``alone`` is added if it is needed. There are no names if every row counts as an event.
    """
    has_events = "event_id" in rows.columns
    if config.aggregate not in EVENTS:
        if not has_events:
            return ["cell", "timestamp"], rows
        # With aggregates other than sum and count, the series and time identify a row without an event id.
        alone = pl.when(pl.col("event_id").is_null()).then("timestamp")
        return ["cell", "event_id", "alone"], rows.with_columns(alone=alone)
    own = "event_id" if has_events else ORIGIN
    if own not in rows.columns:
        return [], rows
    # Give each row with a null in the column ``own`` a separate number in the column ``alone``: with sum
    # and count, such rows are never duplicates of each other.
    alone = pl.when(pl.col(own).is_null()).then(pl.int_range(pl.len(), dtype=pl.Int64))
    content = [] if has_events else ["timestamp", "value"]
    return ["cell", own, *content, "alone"], rows.with_columns(alone=alone)
