"""Find codes for a missing value, such as -9999, among the values of a series."""

from __future__ import annotations

import polars as pl

_CODES = tuple(sign * float("9" * digits) for digits in range(2, 9) for sign in (-1, 1))  # 99 to 99999999
_FEWEST = 2
_FAR = 3.0  # a code is further from the other values than this many times their range
_HUGE = 1e30


def code_notices(rows: pl.DataFrame) -> list[str]:
    """Return a notice about values that probably mean a missing value, such as -9999; [] if there are none.

    A code such as -9999 is reported if a series holds it at least twice and its distance from the series'
    other values is more than three times their range. Values of 1e30 and more are always reported. The
    notice names the most frequent code first.
    """
    value = pl.col("value")
    is_odd = value.is_in(_CODES) | (value.abs() >= _HUGE)
    if not rows.select(is_odd.any()).item():
        return []
    odd = (
        rows.filter(is_odd)
        .group_by("series_id", "value")
        .len()
        .sort("len", "series_id", descending=[True, False])
    )
    others = (
        rows.filter(~is_odd).group_by("series_id").agg(value.min().alias("low"), value.max().alias("high"))
    )
    width = pl.col("high") - pl.col("low")
    beyond = pl.max_horizontal(pl.col("low") - value, value - pl.col("high"))
    is_code = (pl.col("len") >= _FEWEST) & (beyond > _FAR * width)
    found = odd.join(others, "series_id", maintain_order="left").filter(is_code | (value.abs() >= _HUGE))
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
