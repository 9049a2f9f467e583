"""Find the format of times such as ``1/31/2010 0:00``, if the job's settings name no format.

A format is looked for only if none of the first times can be read without one (see `schemas.cells.times`).
The format must read every time of the file that any known format reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from schemas import cells, observations
from schemas.errors import DataError

_DAYS = (
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y-%m-%d",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%y/%m/%d",
    "%d.%m.%y",
    "%d-%B-%Y",
    "%d-%B-%y",
    "%d %B %Y",
    "%B %d, %Y",
)  # %B also reads short names of months, such as Jan
# %S%.f reads seconds with and without a fraction.
_CLOCKS = (
    "",
    *(
        f"{gap}{clock}"
        for gap in (" ", ", ")
        for clock in ("%H:%M", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p")
    ),
)
PATTERNS = tuple(day + clock for day in _DAYS for clock in _CLOCKS)

_EXCEL = "excel"
_EXCEL_DAYS = (20_000, 80_000)  # 1954-10-03 to 2119-01-11
_FEW = 100


def needs_format(head: pl.Series) -> bool:
    """Return whether none of the first times of a column can be read without a format."""
    if isinstance(head.dtype, pl.Datetime):
        return False
    first = cells.times(head.head(1))
    if first.null_count() < len(first):  # usually the first cell can be read, so no other is checked
        return False
    known = head.filter(cells.given(head))
    return not known.is_empty() and bool(cells.times(known).is_null().all())


def fits_a_format(column: pl.Series) -> bool:
    """Return whether a single one of `PATTERNS` reads all cells of a text column as times."""
    few = column.head(_FEW)
    fitting = [pattern for pattern in PATTERNS if _read(few, pattern).is_not_null().all()]
    return any(_read(column, pattern).is_not_null().all() for pattern in fitting)


def detect_format(path: Path, batches: Iterable[pl.Series]) -> str:
    """Return the format of the times of a column; ``auto`` if `_formats_of` finds none for its first cells.

    Args:
        path: the file, for errors.
        batches: all cells of the column, in pieces.

    Raises:
        DataError: two formats read all times, because day and month could be exchanged, or no format reads
            all times.
    """
    formats: list[str] = []
    # A cell for the error message: one that two formats read as different times, if the first batch has one.
    example: pl.Series | None = None
    for batch in batches:
        distinct = batch.filter(cells.given(batch)).unique(maintain_order=True)
        if not formats:
            formats = _formats_of(distinct)
            if not formats:
                return cells.AUTO
        read = {one: _read(distinct, one) for one in formats}
        wanted = cells.times(distinct).is_not_null()
        for times in read.values():
            wanted |= times.is_not_null()
        if _EXCEL in formats:
            wanted |= cells.numbers(distinct).is_not_null()
        complete = [one for one in formats if (read[one].is_not_null() | ~wanted).all()]
        if not complete:
            raise DataError(f"{path}: {_several_forms(distinct, wanted, read)}")
        formats = complete
        if len(complete) > 1 and example is None:
            differs = read[complete[0]] != read[complete[1]]
            example = distinct.filter(differs.fill_null(False) | (not differs.any())).head(1)
    if len(formats) > 1 and example is not None:
        raise DataError(f"{path}: {_two_readings(example, formats)}")
    return formats[0] if formats else cells.AUTO


def unreadable_times_message(column: pl.Series, time_format: str) -> str:
    """Return the error message for a column without a readable time.

    The message has the reason, and if known formats read all cells, also ``data.time_format`` with them.
    """
    known = column.filter(cells.given(column))
    first = pl.DataFrame({"series_id": ["a"], "timestamp": known.head(1), "value": [0.0]})
    reason = observations.validate(first, time_format)[1]["reason"][0]
    fitting = [one for one in _formats_of(known) if _read(known, one).is_not_null().all()]
    fix = ": set data.time_format = " + " or ".join(f"'{one}'" for one in fitting) if fitting else ""
    return f"none of the times in column {column.name!r} can be read: {reason}{fix}"


def _formats_of(distinct: pl.Series) -> list[str]:
    """Return the formats that can read at least one of the first cells as a time.

    If all of these cells are numbers, only Excel's format is tried, and it must read every one of them.
    """
    few = distinct.head(_FEW)
    if cells.numbers(few).is_not_null().all():
        return [_EXCEL] if _read(few, _EXCEL).is_not_null().all() else []
    return [one for one in PATTERNS if _read(few, one).is_not_null().any()]


def _read(column: pl.Series, time_format: str) -> pl.Series:
    """Convert a column to times by a format; a cell that is not a time in the valid range becomes null.

    The valid range is the range of an observation's times, and for Excel's format also `_EXCEL_DAYS`.
    """
    times = cells.times(column, time_format)
    in_range = times.is_between(observations.FIRST_TIME, observations.LAST_TIME)
    if time_format == _EXCEL:
        in_range &= cells.numbers(column).is_between(*_EXCEL_DAYS)
    return times.set(~in_range.fill_null(False), None)


def _two_readings(example: pl.Series, formats: Sequence[str]) -> str:
    ways = [f"'{one}' ({_read(example, one).dt.strftime('%Y-%m-%d')[0]})" for one in formats]
    return (
        f"the times in column {example.name!r}, such as {example[0]!r}, can be read in {len(ways)} ways: set "
        f"data.time_format = {' or '.join(ways)}"
    )


def _several_forms(distinct: pl.Series, wanted: pl.Series, read: dict[str, pl.Series]) -> str:
    best = max(read, key=lambda one: int(read[one].is_not_null().sum()))
    is_read = read[best].is_not_null()
    one, other = str(distinct.filter(is_read)[0]), str(distinct.filter(wanted & ~is_read)[0])
    return (
        f"the times in column {distinct.name!r} have several forms, such as {one!r} and {other!r}: write all "
        f"in one form, or set data.time_format = '{best}', which quarantines the rows of other forms"
    )
