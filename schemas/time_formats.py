"""Convert numbers and text to times, and describe numbers that the format ``auto`` rejects as times."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from schemas.text_cells import names

AUTO = "auto"
UNITS = ("s", "ms", "us", "ns", "excel")
"""Units of times that are numbers.

"s", "ms", "us" and "ns" count seconds, milliseconds, microseconds or nanoseconds since 1970. "excel" counts
days since 1899-12-30, as spreadsheets do.
"""

_LEAST = 100_000_000
"""Smallest number that the format ``auto`` reads as a time: 1973-03-03 in seconds since 1970.

``auto`` rejects a smaller number, because it is more likely a year, a month, a day, a date of a spreadsheet
or a count of steps.
"""

_EXCEL_DAYS = 25_569  # 1899-12-30, day 0 of spreadsheets, is this many days before 1970-01-01
_MOST = 1e19  # larger numbers are not times in any unit: even as nanoseconds, they are after the year 2286
_MOST_US = 10_413_792_000_000_000  # this is the start of the year 2300, in microseconds since 1970
_PROBE = datetime(2013, 1, 31, 13, 30, 30)


def check(time_format: str) -> str:
    """Return ``time_format`` unchanged if it is valid, else raise a ValueError.

    A valid format is ``auto``, one of `UNITS`, or a pattern that contains a year, such as ``%m/%d/%Y %H:%M``.

    Raises:
        ValueError: the format is not valid.
    """
    if time_format == AUTO or time_format in UNITS:
        return time_format
    if "%" in time_format:
        try:
            written = pl.Series([_PROBE]).dt.replace_time_zone("UTC").dt.strftime(time_format)
            read = from_pattern(written, time_format)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            read = pl.Series([None])
        if read[0] is not None and read.cast(pl.Datetime("us")).dt.year()[0] == _PROBE.year:
            return time_format
    raise ValueError(
        f"must be {AUTO}, {', '.join(UNITS)}, or a pattern with a year such as %m/%d/%Y %H:%M; "
        f"{time_format!r} is none of these"
    )


def from_pattern(words: pl.Series, pattern: str) -> pl.Series:
    """Read each text as a time in the form ``pattern``; return microseconds since 1970, Int64 ``[n]``.

    The texts must not begin or end with blanks. Text that does not match the pattern becomes null.

    If the pattern has no month, the month is January; if it has no day, the day is the first of the month; if
    it has no clock time, the time is midnight.
    """
    wanted = pl.col("t")
    for lacks, part, value in (
        (("m", "b", "B", "h", "j", "D", "F"), "m", "01"),
        (("d", "e", "j", "D", "F"), "d", "01"),
    ):
        if not _has(pattern, lacks):
            pattern, wanted = f"{pattern}|%{part}", wanted + f"|{value}"
    if not _has(pattern, ("H", "I", "k", "l", "T", "R", "X", "r", "c", "s")):
        pattern, wanted = f"{pattern}|%H:%M", wanted + "|00:00"
    zone = "UTC" if _has(pattern, ("z", ":z", "+", "#z")) else None
    read = wanted.str.to_datetime(pattern, time_unit="us", time_zone=zone, strict=False, exact=True)
    return words.alias("t").to_frame().select(read.to_physical()).to_series()


def has_zone(pattern: str) -> bool:
    """Return True if times in a format have an offset from UTC, or are counts since 1970 in UTC."""
    return pattern in ("s", "ms", "us", "ns") or _has(pattern, ("z", ":z", "+", "#z", "s"))


def from_numbers(cells: pl.Series, time_format: str = AUTO) -> pl.Series:
    """Convert a column of numbers to microseconds since 1970, Int64 ``[n]``.

    A number that is not a time becomes null. With the format ``auto``, the size of a number decides whether
    it counts seconds, milliseconds, microseconds or nanoseconds. ``auto`` rejects a number
    whose absolute value is below `_LEAST`, and one whose digits can be read as a date and a clock time, such
    as 201301310500.
    """
    if "%" in time_format:
        return from_pattern(names(cells), time_format)
    whole = cells.dtype.is_integer()
    n = pl.col("n")
    frame = cells.cast(pl.Int64 if whole else pl.Float64, strict=False).alias("n").to_frame()
    known = pl.lit(True) if whole else n.is_between(-_MOST, _MOST)
    if time_format == AUTO:
        micros = (
            pl.when(n.is_between(-1e11, 1e11)).then(n * 1_000_000)
            .when(n.is_between(-1e14, 1e14)).then(n * 1_000)
            .when(n.is_between(-1e17, 1e17)).then(n)
            .otherwise(n // 1_000)
        )  # fmt: skip
        known = known & ~n.is_between(-_LEAST, _LEAST, closed="none") & ~_digits_of_a_minute(n)
    elif time_format == "excel":
        # A spreadsheet stores 2 o'clock as a fraction of a day, which may be read as 7199.997 s, not 7200 s.
        # Round to seconds, so that a row of 2 o'clock is in the window that begins at 2 o'clock.
        seconds = ((n.cast(pl.Float64) - _EXCEL_DAYS) * 86_400).round()
        micros, known = seconds * 1_000_000, known & n.is_between(-1e7, 1e7)
    elif time_format == "ns":
        micros = n // 1_000
    else:
        factor = {"s": 1_000_000, "ms": 1_000, "us": 1}[time_format]
        most = _MOST_US // factor
        micros = n.clip(-most, most) * factor
    made = frame.select(pl.when(known).then(micros if whole else micros.round()))
    return made.to_series().cast(pl.Int64, strict=False)


def looks_like(number: pl.Expr) -> pl.Expr:
    """Return a Polars expression that computes a text: why the format ``auto`` rejects a number as a time.

    The text is the end of an error message that begins with the number. It says what the number probably is
    and names the setting with which such numbers can be read. The text is null for a number that ``auto``
    accepts, for NaN and for a number beyond `_MOST`.

    Args:
        number: an expression for numbers in Float64.
    """
    return (
        pl.when(number.is_between(19000101, 21001231) & _is_day(number))
        .then(pl.lit("is a day written as a number: set data.time_format = '%Y%m%d'"))
        .when(number.is_between(190001, 210012) & (number % 100).is_between(1, 12))
        .then(pl.lit("is a month written as a number: set data.time_format = '%Y%m'"))
        .when(_digits_of_a_minute(number))
        .then(pl.lit("is a minute written as a number: set data.time_format = '%Y%m%d%H%M'"))
        .when(number.is_between(1600, 2300) & (number == number.floor()))
        .then(pl.lit("is a year or a count of steps, no time: set data.time_format = '%Y' to read years"))
        .when(number.is_between(20_000, 80_000))
        .then(pl.lit("looks like a date of a spreadsheet: set data.time_format = 'excel'"))
        .when(number.is_between(-_LEAST, _LEAST, closed="none"))
        .then(
            pl.lit(
                "is too small for a time since 1970: for a count of steps set data.time_format = "
                "'s' and windows.freq = '1s', which makes a window of each step"
            )
        )
    )  # fmt: skip


def _digits_of_a_minute(number: pl.Expr) -> pl.Expr:
    """Return True for a number with digits that can be read as a date and a clock time, as in 201301310500.

    The same number can also be milliseconds since 1970: a time in 1976 instead of 2013-01-31 05:00.
    """
    minute, hour, day = number % 100, number // 100 % 100, number // 10_000
    is_clock = minute.is_between(0, 59) & hour.is_between(0, 23)
    return number.is_between(190001010000, 210012312359) & is_clock & _is_day(day)


def _is_day(number: pl.Expr) -> pl.Expr:
    month, day = number // 100 % 100, number % 100
    return month.is_between(1, 12) & day.is_between(1, 31)


def _has(pattern: str, directives: tuple[str, ...]) -> bool:
    plain = pattern.replace("%%", "").replace("%-", "%").replace("%_", "%").replace("%0", "%")
    return any(f"%{one}" in plain for one in directives)
