"""Convert the cells of a column of any type to text.

`text` returns text to be parsed, `names` returns names of series or labels, and `shown` returns text for
people to read. No content of a cell makes these functions raise an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

_WHOLE = 2**53  # a float64 represents every whole number up to this one without a rounding error
_FLOAT_NAME = r"^(-?[1-9]\d*|0)\.0$"
_TICKS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_YEARS_S = 8_000_000_000_000  # Polars can write times within this many seconds of 1970 (250,000 years)
_YEARS_D = 92_000_000  # Polars can write dates within this many days of 1970 (250,000 years)


def text(cells: pl.Series) -> pl.Series:
    """Convert cells of any type to text that can be parsed, String ``[n]``; for people to read, use `shown`.

    Lists and structs become JSON. Null and bytes that are not UTF-8 become null; `shown` can write such
    bytes.
    """
    dtype = cells.dtype
    if dtype == pl.String:
        return cells
    if isinstance(dtype, pl.BaseExtension):
        return text(cells.ext.storage())
    if dtype == pl.Binary:
        return _decoded(cells)
    if isinstance(dtype, pl.Datetime) or dtype == pl.Date:
        return _times(cells)
    if isinstance(dtype, pl.Duration):
        return cells.dt.to_string("iso")
    if dtype.is_nested() or isinstance(dtype, pl.Object):
        return _json(cells)
    return cells.cast(pl.String, strict=False)


def shown(cells: pl.Series) -> pl.Series:
    """Convert the cells to text for people to read, String ``[n]``.

    The text is that of `text`, except for bytes that are not UTF-8: each of these is written as an
    escape of four characters, as in Python.
    """
    if cells.dtype == pl.String:
        return cells
    words = text(cells)
    hidden = (words.is_null() & cells.is_not_null()).arg_true()
    if not len(hidden):
        return words
    storage = cells.ext.storage() if isinstance(cells.dtype, pl.BaseExtension) else cells
    escaped = [str(cell)[2:-1] for cell in storage.gather(hidden)]
    return words.scatter(hidden, pl.Series(escaped, dtype=pl.String))


def names(cells: pl.Series) -> pl.Series:
    """Convert the cells to names of series or labels, String ``[n]``.

    A series has the same name in every type of column: the integer 7, the float 7.0, the decimal 7.00 and the
    text ``7.0`` all become ``7``. Null, NaN and bytes that are not UTF-8 become null.
    """
    dtype = cells.dtype
    if isinstance(dtype, pl.BaseExtension):
        return names(cells.ext.storage())
    if dtype.is_float():
        number = cells.cast(pl.Float64).fill_nan(None)
        whole = (number == number.floor()) & number.is_between(-_WHOLE, _WHOLE)
        written = cells.cast(pl.String)
        out = written.to_frame("w").select(
            pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise("w")
        )
        return out.to_series().set(number.is_null(), None).alias(cells.name)
    if isinstance(dtype, pl.Decimal):
        written = cells.cast(pl.String)
        if dtype.scale:
            written = written.str.replace(r"\.?0+$", "")
        return written
    words = text(cells)
    if words.str.ends_with(".0").any():
        words = words.str.replace(_FLOAT_NAME, "${1}")
    return words


def joined_names(parts: Sequence[pl.Series]) -> pl.Series:
    """Join the names in each row of several columns with "/", String ``[n]``; null if a name is missing.

    A "/" inside a name is written as ``%2F``, so that different names never become the same one. A single
    column is not joined: the result is then the result of `names` for this column.
    """
    if len(parts) == 1:
        return names(parts[0])
    read = [names(part).str.replace_all("/", "%2F", literal=True) for part in parts]
    read = [part.set(~part.str.contains(r"\S").fill_null(False), None) for part in read]
    frame = pl.DataFrame([part.alias(str(i)) for i, part in enumerate(read)])
    return frame.select(pl.concat_str(pl.all(), separator="/", ignore_nulls=False)).to_series()


def _decoded(cells: pl.Series) -> pl.Series:
    try:
        return cells.cast(pl.String)
    except pl.exceptions.PolarsError:
        found = [_utf8(cell) for cell in cells]
        return pl.Series(cells.name, found, dtype=pl.String)


def _utf8(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return None


def _times(cells: pl.Series) -> pl.Series:
    """Convert dates and times to text.

    Polars cannot write a time more than about 250,000 years from 1970. Such a time becomes a text such as
    "9223372036854775807 ms since 1970".
    """
    ticks = cells.to_physical().cast(pl.Int64)
    unit = cells.dtype.time_unit if isinstance(cells.dtype, pl.Datetime) else "days"
    most = _YEARS_D if unit == "days" else min(_YEARS_S * _TICKS[unit], 2**63 - 1)
    # The abs() of the smallest int64 overflows to a negative number, so ``ticks < -most`` is compared, too.
    outside = (ticks.abs() > most) | (ticks < -most)
    if not outside.any():
        return cells.cast(pl.String)
    count = (ticks.cast(pl.String) + f" {unit} since 1970").filter(outside)
    return cells.set(outside, None).cast(pl.String).scatter(outside.arg_true(), count)


def _json(cells: pl.Series) -> pl.Series:
    if not isinstance(cells.dtype, pl.Object) and _is_json(cells.dtype):
        cell = pl.col("v")
        # Polars documents `json_encode` only for structs. So write each cell as a struct {"v":CELL}, and cut
        # off {"v": and the last }.
        encoded = pl.struct(cell).struct.json_encode().str.slice(5).str.head(-1)
        made = cells.alias("v").to_frame().select(pl.when(cell.is_not_null()).then(encoded))
        return made.to_series().alias(cells.name)
    if cells.dtype.is_nested():
        # Convert times in lists and structs to integers, because Python cannot represent all times of Polars.
        cells = cells.cast(_without_times(cells.dtype))
    return pl.Series(cells.name, [_cell_text(cells, i) for i in range(len(cells))], dtype=pl.String)


def _is_json(dtype: pl.DataType) -> bool:
    """Return True for numbers, String, Boolean, Null and Enum, and for lists and structs of these types.

    Polars can write every cell of these types as JSON. Types that may contain bytes or times are excluded:
    Polars panics when it writes bytes as JSON, or a time that is too far from 1970. All other types are
    excluded, too, even if Polars can write their cells.
    """
    if isinstance(dtype, pl.List):
        return _is_json(_typed(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return all(_is_json(_typed(field.dtype)) for field in dtype.fields)
    return dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null) or isinstance(dtype, pl.Enum)


def _without_times(dtype: pl.DataType) -> pl.DataType:
    """Return a type with Int64 in place of each type of dates, times and durations in it."""
    if isinstance(dtype, pl.List):
        return pl.List(_without_times(_typed(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return pl.Array(_without_times(_typed(dtype.inner)), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct(
            [pl.Field(field.name, _without_times(_typed(field.dtype))) for field in dtype.fields]
        )
    return pl.Int64() if dtype.is_temporal() else dtype


def _typed(dtype: object) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()  # type: ignore[operator]


def _cell_text(cells: pl.Series, place: int) -> str | None:
    try:
        value = cells[place]
        if isinstance(value, pl.Series):
            value = value.to_list()
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | dict | tuple):
            return json.dumps(value, default=str, separators=(",", ":"))
        return str(value)
    # A cell may be any Python object, so str() may raise any error. Show the type of the column instead.
    except (Exception, pl.exceptions.PanicException):
        return str(cells.dtype)
