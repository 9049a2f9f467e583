"""Read times from numbers or from text of a given format, and explain numbers that cannot be times."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from schemas.text_cells import names

AUTO = "auto"
UNITS = ("s", "ms", "us", "ns", "excel")
"""Units of times that are numbers: seconds, ms, us or ns since 1970, or the days of a spreadsheet."""

_LEAST = 100_000_000
"""Smallest number that ``auto`` reads as a time: 1973-03-03 in seconds since 1970. A smaller number is more
likely a year, a month, a day, a date of a spreadsheet or a count of steps."""

_EXCEL_DAYS = 25_569  # 1899-12-30, day 0 of spreadsheets, is this many days before 1970-01-01
_MOST = 1e19  # no larger number is a time in any unit: as nanoseconds, 1e19 is in the year 2286
_MOST_US = 10_413_792_000_000_000  # the year 2300 begins at this time
_PROBE = datetime(2013, 1, 31, 13, 30, 30)


def check(time_format: str) -> str:
    """Return the format if it is ``auto``, one of `UNITS`, or a pattern such as ``%m/%d/%Y %H:%M``.

    Raises:
        ValueError: the format is none of these.
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
    """Return microseconds since 1970, Int64 ``[n]``, of stripped text; null if it does not match the pattern.

    Without a month or day in the pattern, the first one is taken; without a clock time, midnight.
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
    """Return True if times of this format have a known offset from UTC."""
    return pattern in ("s", "ms", "us", "ns") or _has(pattern, ("z", ":z", "+", "#z", "s"))


def from_numbers(cells: pl.Series, time_format: str = AUTO) -> pl.Series:
    """Return microseconds since 1970, Int64 ``[n]``, of a column of numbers; null if a number is not a time.

    With ``auto``, the size of a number decides whether it counts seconds, milli-, micro- or nanoseconds. A
    number is null if it is too small for a time after 1973, or if it could also be a date (201301310500).
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
        # Round to seconds: a rounding error of a serial date (7199.997 s for 7200 s) could change the window.
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
    """Return text that explains a number (Float64) of implausible size for a time, and how to read it.

    The text names the setting that reads such numbers. It is null for a number of plausible size.
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
    """Return True for a number such as 201301310500: a minute in digits, or milliseconds in 1976."""
    minute, hour, day = number % 100, number // 100 % 100, number // 10_000
    is_clock = minute.is_between(0, 59) & hour.is_between(0, 23)
    return number.is_between(190001010000, 210012312359) & is_clock & _is_day(day)


def _is_day(number: pl.Expr) -> pl.Expr:
    month, day = number // 100 % 100, number % 100
    return month.is_between(1, 12) & day.is_between(1, 31)


def _has(pattern: str, directives: tuple[str, ...]) -> bool:
    plain = pattern.replace("%%", "").replace("%-", "%").replace("%_", "%").replace("%0", "%")
    return any(f"%{one}" in plain for one in directives)
