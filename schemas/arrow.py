"""Convert Arrow columns to Polars columns, even if Polars does not have the type of a column.

Polars itself raises an error or panics on a column of a type that it lacks, and it accepts text that is not
UTF-8. `series_of` converts such columns, too, to Polars columns that `schemas.cells` can read. Only a few
columns raise an error, such as run-end encoded lists, which pyarrow cannot decode.
"""

from __future__ import annotations

import json
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_MOST_DIGITS = 38  # a Polars Decimal holds at most this many digits

_DIRECT = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_date,
)  # fmt: skip
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
)  # fmt: skip


def frame_of(rows: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    """Convert Arrow rows to a Polars frame; a column that pyarrow cannot decode raises an error."""
    columns = [series_of(name, column) for name, column in zip(rows.schema.names, rows.columns, strict=True)]
    return pl.DataFrame(columns) if columns else pl.DataFrame()


def series_of(name: str, column: pa.Array | pa.ChunkedArray) -> pl.Series:
    """Convert an Arrow column to a Polars column with the same number of cells.

    Numbers stay numbers, dates stay dates, text stays text and times stay times, with these exceptions:

    - times with a time zone are converted to UTC;
    - text that is not UTF-8 becomes Binary;
    - decimals with more digits than a Polars Decimal become Decimal if the values fit, else text.

    A cell of a type that Polars does not have becomes text: the name of the type and then the value. A text,
    an integer, a float or a Boolean in a union becomes text without the name of the type.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    made = [_converted(chunk) for chunk in chunks]
    if not made:
        return pl.Series(name, [], dtype=pl.Null)
    kinds = {one.dtype for one in made}
    # All chunks of a Polars column must have the same type.
    if kinds == {pl.String, pl.Binary}:
        # A chunk with text that is not UTF-8 has become Binary, the others String: convert all to Binary.
        made = [one.cast(pl.Binary) for one in made]
    elif len(kinds) > 1:
        # A chunk has become text, because Polars cannot represent a value: convert the other chunks, too.
        made = [_as_text(chunk, one) for chunk, one in zip(chunks, made, strict=True)]
    return pl.concat(made).alias(name)


def is_unreadable(kind: pa.DataType) -> bool:
    """Return True for a type that pyarrow may be unable to read from Parquet.

    The type is, or contains, a list of a fixed size; pyarrow cannot read such lists if some of them are null.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return is_unreadable(kind.storage_type)
    return pa.types.is_fixed_size_list(kind) or any(
        is_unreadable(kind.field(i).type) for i in range(kind.num_fields)
    )


def _converted(cells: pa.Array) -> pl.Series:
    kind = cells.type
    if isinstance(kind, pa.BaseExtensionType):
        return _uuids(cells.storage) if isinstance(kind, pa.UuidType) else _converted(cells.storage)
    if pa.types.is_dictionary(kind):
        return _converted(cells.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _converted(pc.run_end_decode(cells))
    if any(check(kind) for check in _DIRECT):
        return _polars(cells)
    if any(check(kind) for check in _TEXT):
        return _polars(cells) if _is_valid(cells) else _converted(cells.cast(_bytes_like(kind)))
    if any(check(kind) for check in _BYTES):
        return _polars(cells.cast(pa.large_binary()))
    if pa.types.is_timestamp(kind):
        return _timestamps(cells)
    if pa.types.is_duration(kind):
        return _ticks(cells, kind.unit, pl.Duration)
    if pa.types.is_time(kind):
        # Arrow accepts clock times of 24 hours or more, but Polars converts such a time to null.
        # If Polars has converted any time to null, return all times of the chunk as text.
        made = _polars(cells)
        lost = made.cast(pl.String, strict=False).null_count() > cells.null_count
        return _polars(cells.cast(pa.string())) if lost else made
    if pa.types.is_decimal(kind):
        is_wide = pa.types.is_decimal256(kind) or kind.scale < 0
        return _decimals(cells) if is_wide else _polars(cells)
    if _is_plain(kind) and _is_valid(cells):
        return _polars(cells)
    return pl.Series([_text(cell) for cell in cells], dtype=pl.String)


def _as_text(chunk: pa.Array, made: pl.Series) -> pl.Series:
    """Convert a chunk of an Arrow column to a Polars column of text.

    Args:
        chunk: the Arrow chunk.
        made: the same chunk as a Polars column.
    """
    if made.dtype == pl.String:
        return made
    if made.dtype in (pl.Decimal, pl.Time):
        return made.cast(pl.String)
    return pl.Series([_text(cell) for cell in chunk], dtype=pl.String)


def _is_plain(kind: pa.DataType) -> bool:
    """Return True for the Arrow types null, Boolean, integer, float and text, and lists and structs of them.

    Polars can write every valid value of these types as JSON. The result is False for a struct without
    fields and for every other type, even if Polars can write its values.
    """
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_plain(field.type) for field in kind)
    simple = (pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, *_TEXT)
    return any(check(kind) for check in simple)


def _polars(cells: pa.Array) -> pl.Series:
    return cast(pl.Series, pl.from_arrow(cells))


def _is_valid(cells: pa.Array) -> bool:
    try:
        cells.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _bytes_like(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.binary_view()
    return pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()


def _timestamps(cells: pa.Array) -> pl.Series:
    """Convert an Arrow column of timestamps to Polars Datetime, in UTC if the Arrow type has a time zone.

    No time is shifted by its zone, because Arrow stores times with a time zone in UTC.
    """
    zone = None if cells.type.tz is None else "UTC"
    return _ticks(cells, cells.type.unit, lambda unit: pl.Datetime(unit, zone))


def _ticks(cells: pa.Array, unit: str, dtype: Any) -> pl.Series:
    ticks = _polars(cells.cast(pa.int64()))
    if unit == "s":
        most = (2**63 - 1) // 1000
        return (ticks.clip(-most, most) * 1000).cast(dtype("ms"))
    return ticks.cast(dtype(unit))


def _decimals(cells: pa.Array) -> pl.Series:
    """Convert Arrow decimals to a Polars column of Decimal, or to text if a decimal has too many digits."""
    scale = max(cells.type.scale, 0)
    try:
        return _polars(cells.cast(pa.decimal128(_MOST_DIGITS, min(scale, _MOST_DIGITS))))
    except pa.ArrowInvalid:
        return _polars(cells.cast(pa.string()))


def _uuids(storage: pa.Array) -> pl.Series:
    digits = _polars(storage.cast(pa.large_binary())).bin.encode("hex").alias("u").to_frame()
    parts = [pl.col("u").str.slice(at, length) for at, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    return digits.select(pl.concat_str(parts, separator="-")).to_series()


def _text(cell: pa.Scalar) -> str | None:
    """Convert an Arrow cell to text; only text, integers, floats and Booleans are written without their type.

    Any other value is written as the Arrow type, a blank, and the value as JSON. If Python cannot read the
    value, only the type is written. Null becomes None.
    """
    try:
        value = cell.as_py()
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float):
            return str(value)
        return f"{cell.type} {json.dumps(value, default=str, separators=(',', ':'))}"
    except Exception:  # the value is text that is not UTF-8, or a time or zone that Python does not support
        return str(cell.type)
