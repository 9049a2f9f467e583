"""Find values such as -9999 that probably are codes for a missing value."""

from __future__ import annotations

import polars as pl

_CODES = tuple(sign * float("9" * digits) for digits in range(2, 9) for sign in (-1, 1))  # 99 to 99999999
_FEWEST = 2
# A code is farther from the other values of its series than this many times the range of those values.
_FAR = 3.0
_HUGE = 1e30
_MOST_PIECES = 64


def missing_code_notices(rows: pl.DataFrame) -> list[str]:
    """Return a notice about values such as -9999 that probably mean a missing value; [] if there are none.

    A code such as -9999 is reported if a series holds it at least twice and its distance from the series'
    other values is more than three times their range. Values of 1e30 and more are always reported. The
    notice names the most frequent code first.
    """
    if not rows.select(_is_odd().any()).item():
        return []
    codes = Codes()
    codes.add(rows)
    return codes.notices()


class Codes:
    """Finds codes such as -9999 that probably mean a missing value, in rows that are added frame by frame.

    `missing_code_notices` describes which values are codes.
    """

    def __init__(self) -> None:
        """Begin a search for codes of missing values in the rows that `add` will receive."""
        self._odd: list[pl.DataFrame] = []
        self._others: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Add a frame of observations; `notices` finds codes for missing values in all added frames."""
        value, is_odd = pl.col("value"), _is_odd()
        self._odd.append(rows.filter(is_odd).group_by("series_id", "value").len())
        self._others.append(
            rows.filter(~is_odd)
            .group_by("series_id")
            .agg(value.min().alias("low"), value.max().alias("high"))
        )
        if len(self._others) >= _MOST_PIECES:
            self._combine_pieces()

    def notices(self) -> list[str]:
        """Return a list with one notice about the codes for missing values in the added rows, or []."""
        if not self._others:
            return []
        self._combine_pieces()
        value = pl.col("value")
        odd = self._odd[0].sort("len", "series_id", descending=[True, False])
        width = pl.col("high") - pl.col("low")
        beyond = pl.max_horizontal(pl.col("low") - value, value - pl.col("high"))
        is_code = (pl.col("len") >= _FEWEST) & (beyond > _FAR * width)
        joined = odd.join(self._others[0], "series_id", maintain_order="left")
        return _notices(joined.filter(is_code | (value.abs() >= _HUGE)))

    def _combine_pieces(self) -> None:
        odd = pl.concat(self._odd).group_by("series_id", "value").agg(pl.col("len").sum())
        others = pl.concat(self._others).group_by("series_id").agg(pl.col("low").min(), pl.col("high").max())
        self._odd, self._others = [odd], [others]


def _is_odd() -> pl.Expr:
    return pl.col("value").is_in(_CODES) | (pl.col("value").abs() >= _HUGE)


def _notices(found: pl.DataFrame) -> list[str]:
    if found.is_empty():
        return []
    codes = found["value"].unique(maintain_order=True).to_list()[:5]
    first = found.row(0, named=True)
    named = ", ".join(f"{code:g}" for code in codes)
    line = (
        f"values that may stand for none ({named}) in {len(found):,} series, such as {first['value']:g}, "
        f"{first['len']:,} times in {first['series_id']!r}, whose other values are {first['low']:g} to "
        f"{first['high']:g}: if so, set data.missing = [{named}]"
    )
    return [line]
