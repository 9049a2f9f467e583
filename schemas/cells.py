"""Read a column of cells of any type as text, numbers or times.

A cell is one entry of a column. All functions convert a whole column. A cell that cannot be read becomes null
and raises no error; `schemas.observations.validate` then rejects the row of the cell.
"""

from __future__ import annotations

import polars as pl

from schemas import time_formats, time_zones
from schemas.text_cells import joined_names, names, shown, text
from schemas.time_formats import AUTO
from schemas.time_zones import TIME

__all__ = [
    "AUTO", "MISSING", "TIME", "given", "joined_names", "lacks_zone", "names", "numbers", "shown", "text",
    "times",
]  # fmt: skip

MISSING = ("", "NA", "null", "None")
"""The texts that mean a missing value in a column of numbers or times.

Blanks around the text are ignored. In a column of names these texts are names, except the empty text, which
means a missing name.
"""

_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_ZONE = r"[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?"
_ISO = rf"^({_DAY})(?:[Tt ]({_CLOCK})(?::([0-5]\d)(?:[.,](\d{{1,9}}))?)?\s?({_ZONE})?)?$"
_PLAIN = rf"^{_DAY}[Tt ]{_CLOCK}:[0-5]\d[Zz]?$"
_NO_ZONE = rf"^\s*{_DAY}(?:[Tt ]{_CLOCK}(?::[0-5]\d(?:[.,]\d{{1,9}})?)?)?\s*$"
_MONTH = r"^\d{4}-(?:0[1-9]|1[0-2])$"
_QUARTER = r"^(\d{4})[ -]?[Qq]([1-4])$"
_PERIOD = r"^\s*(?:\d{4}-\d{2}|\d{4}[ -]?[Qq][1-4])\s*$"
_EPOCH = r"^[+-]?\d{1,19}(?:\.\d+)?$"
_SAMPLE = 2_000  # size of the random sample of cells that shows whether the texts of a column repeat
# `times` clips times to the range from 1600-01-01 to 2300-01-01: microseconds of far times overflow.
# Rows with times before 1678 or after 2261 are rejected later (`schemas.observations`).
_LEAST_US = -11_676_096_000_000_000
_MOST_US = 10_413_792_000_000_000


def given(cells: pl.Series) -> pl.Series:
    """Return Boolean ``[n]``, True for each cell that is not missing, even if the cell cannot be read."""
    if cells.dtype.is_numeric() or cells.dtype.is_temporal() or cells.dtype == pl.Binary:
        return cells.is_not_null()
    frame = pl.DataFrame([cells.is_not_null().alias("is_given"), text(cells).alias("word")])
    is_missing = pl.col("word").str.strip_chars().is_in(MISSING).fill_null(False)
    return frame.select((pl.col("is_given") & ~is_missing).alias(cells.name)).to_series()


def numbers(cells: pl.Series) -> pl.Series:
    """Convert the cells to Float64 ``[n]``; a cell that is missing or cannot be read becomes null.

    NaN and infinity are kept.
    """
    cells = _plain(cells)
    if cells.dtype.is_numeric():
        return cells.cast(pl.Float64, strict=False)
    words = text(cells)
    read = words.cast(pl.Float64, strict=False)
    # If any text cannot be parsed, all texts are parsed again without the blanks around them (slower).
    if read.null_count() == words.null_count():
        return read
    return words.str.strip_chars().cast(pl.Float64, strict=False)


def times(cells: pl.Series, time_format: str = AUTO, time_zone: str = "") -> pl.Series:
    """Convert the cells to times, ``Datetime("us", "UTC") [n]``.

    A cell that is missing or not a time becomes null. Times with a time zone are converted to UTC. Times and
    dates without a zone are local times of ``time_zone``; a local time that does not exist there, or exists
    twice, becomes null.

    With the format ``auto``, a column may mix these forms:

    - text in ISO 8601: a date, or a date and a clock time with ``T`` or a blank between them. Seconds,
      fractions of a second and the zone are optional;
    - a month or a quarter, such as ``2013-04``, ``2013Q2`` or ``2013-Q2``, which becomes its first day;
    - a number, also as text: seconds, milliseconds, microseconds or nanoseconds since 1970, depending on its
      size. Smaller numbers are not times, because they are more likely years, dates of a spreadsheet or
      counts of steps.

    Args:
        cells: the column, of any type.
        time_format: the format of times in text and numbers: one that `schemas.time_formats.check` accepts.
        time_zone: the zone of times without a zone: one that `schemas.time_zones.check` accepts; "" for UTC.
    """
    cells = _plain(cells)
    read = _times_in_utc(cells, time_format)
    if time_zones.is_utc(time_zone):
        return read
    local = without_zone(cells, time_format)
    return time_zones.to_utc(read, time_zone).zip_with(local, read) if local.any() else read


def _times_in_utc(cells: pl.Series, time_format: str) -> pl.Series:
    """Convert the cells to times; times without a zone are read as UTC."""
    dtype = cells.dtype
    if isinstance(dtype, pl.Datetime):
        micros = _micros(cells.to_physical(), dtype.time_unit)
    elif dtype == pl.Date:
        days = cells.to_physical().cast(pl.Int64)
        micros = days.clip(-200_000, 200_000) * 86_400_000_000
    elif dtype.is_numeric():
        micros = time_formats.from_numbers(cells, time_format)
    elif time_format == AUTO:
        micros = _from_text(text(cells))
    elif "%" in time_format:
        micros = time_formats.from_pattern(text(cells).str.strip_chars(), time_format)
    else:
        micros = time_formats.from_numbers(numbers(cells), time_format)
    limited = pl.col("t").clip(_LEAST_US, _MOST_US).cast(TIME)
    return micros.alias("t").to_frame().select(limited.alias(cells.name)).to_series()


def _plain(cells: pl.Series) -> pl.Series:
    return cells.ext.storage() if isinstance(cells.dtype, pl.BaseExtension) else cells


def lacks_zone(cells: pl.Series, time_format: str = AUTO) -> bool:
    """Return True if any time of the column has no time zone (see `without_zone`)."""
    return bool(without_zone(cells, time_format).any())


def without_zone(cells: pl.Series, time_format: str = AUTO) -> pl.Series:
    """Return Boolean ``[n]``, True for each time without a time zone, and False for null.

    With a format other than ``auto``, every cell that is not null counts as a time.
    """
    cells = _plain(cells)
    given = cells.is_not_null()
    if isinstance(cells.dtype, pl.Datetime):
        return given & (cells.dtype.time_zone is None)
    if cells.dtype == pl.Date:
        return given
    if time_format != AUTO:
        return given & (not time_formats.has_zone(time_format))
    if cells.dtype.is_numeric() or cells.dtype == pl.Null:
        return given & False
    words = text(cells)
    return (words.str.contains(_NO_ZONE) | words.str.contains(_PERIOD)).fill_null(False)


def _micros(ticks: pl.Series, unit: str) -> pl.Series:
    if unit == "ns":
        return ticks // 1000
    if unit == "ms":
        return ticks.clip(_LEAST_US // 1000, _MOST_US // 1000) * 1000
    return ticks


def _from_text(words: pl.Series) -> pl.Series:
    """Convert text to microseconds since 1970, Int64 ``[n]``; parse each distinct text once if many repeat.

    This saves time, because the series of a fleet often have rows at the same times.
    """
    words = words.alias("t")
    if not _repeats(words):
        return _parsed_text(words)
    distinct = words.unique()
    known = pl.DataFrame([distinct, _parsed_text(distinct).alias("micros")])
    return words.to_frame().join(known, on="t", how="left", maintain_order="left")["micros"]


def _repeats(words: pl.Series) -> bool:
    """Return True if a column is long and more than 1 % of a random sample of its texts are repeats."""
    return len(words) >= 2 * _SAMPLE and words.sample(_SAMPLE, seed=0).n_unique() < 0.99 * _SAMPLE


def _parsed_text(words: pl.Series) -> pl.Series:
    """Parse times in text to microseconds since 1970, Int64 ``[n]``; text that is no time becomes null.

    Fast code parses the cells in the most common form (`_PLAIN`), and slower code parses the other cells.
    """
    words = words.str.strip_chars()
    t = pl.col("t")
    plain = t.str.head(10) + "T" + t.str.slice(11, 8)
    micros = words.to_frame().select(pl.when(t.str.contains(_PLAIN)).then(_parsed(plain))).to_series()
    if micros.null_count() == words.null_count():
        return micros
    rest = (micros.is_null() & words.is_not_null()).arg_true()
    return micros.scatter(rest, _from_any_text(words.gather(rest)))


def _from_any_text(words: pl.Series) -> pl.Series:
    words = _days_of_periods(words)
    part = words.alias("t").to_frame().select(pl.col("t").str.extract_groups(_ISO)).unnest("t")
    day, clock, second, fraction, zone = (pl.col(name) for name in part.columns)
    start = day + "T" + clock.fill_null("00:00") + ":" + second.fill_null("00")
    digits = zone.str.slice(1).str.replace(":", "", literal=True)
    minutes = digits.str.head(2).cast(pl.Int64, strict=False) * 60
    minutes = minutes + digits.str.slice(2).cast(pl.Int64, strict=False).fill_null(0)
    east = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    after = fraction.str.head(6).str.pad_end(6, "0").cast(pl.Int64, strict=False).fill_null(0)
    iso = part.select(_parsed(start) + after - east * 60_000_000).to_series()

    epoch = words.to_frame("t").select(pl.when(pl.col("t").str.contains(_EPOCH)).then("t")).to_series()
    if epoch.null_count() == len(epoch):
        return iso
    whole = epoch.cast(pl.Int64, strict=False)
    seconds = time_formats.from_numbers(whole)
    broken = time_formats.from_numbers(
        epoch.zip_with(whole.is_null(), pl.Series([None], dtype=pl.String)).cast(pl.Float64)
    )
    return pl.select(pl.coalesce(iso, seconds, broken)).to_series()


def _days_of_periods(words: pl.Series) -> pl.Series:
    """Replace each month, such as ``2013-04``, and each quarter, such as ``2013Q2``, by its first day."""
    quarter = pl.col("t").str.extract(_QUARTER, 2)
    if not words.str.contains(_MONTH).any() and not words.str.contains(_QUARTER).any():
        return words
    month = (quarter.cast(pl.Int64) * 3 - 2).cast(pl.String).str.zfill(2)
    of_quarter = pl.col("t").str.extract(_QUARTER, 1) + "-" + month + "-01"
    of_month = pl.when(pl.col("t").str.contains(_MONTH)).then(pl.col("t") + "-01")
    return words.alias("t").to_frame().select(pl.coalesce(of_quarter, of_month, "t")).to_series()


def _parsed(iso: pl.Expr) -> pl.Expr:
    return iso.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False).to_physical()
