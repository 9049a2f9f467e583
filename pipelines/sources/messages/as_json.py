"""Decode messages that each hold one JSON object."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import polars as pl

from pipelines.sources.messages.base import Decoder, Messages, problems, shown
from pipelines.sources.messages.field_names import Names


def json_decoder(names: Names) -> Decoder:
    """Return a decoder of JSON objects; all cells are text, and lists and objects are JSON text.

    All messages of a poll are read at once. If this fails, for example because of NaN, the messages are read
    one by one, which takes twenty times as long.
    """

    def decode(messages: Messages) -> list[pl.DataFrame]:
        values = [value or b"" for value in messages.values]
        lines = b"\n".join(values)
        if lines.count(b"\n") >= len(values):
            # A message contains line breaks. JSON has them only between tokens, so blanks may replace them.
            lines = b"\n".join(value.replace(b"\n", b" ") for value in values)
        try:
            frame = _read_together(lines, values[0], names)
        except pl.exceptions.PolarsError:
            return _read_separately(values, names)
        if len(frame) != len(values):
            return _read_separately(values, names)
        return [names.chosen(frame, pl.int_range(len(values), dtype=pl.Int64, eager=True))]

    return decode


def _read_together(lines: bytes, first: bytes, names: Names) -> pl.DataFrame:
    """Return the fields of all messages as text columns, read in one call.

    A column may have several possible fields; the first field that is not null counts. If the first message
    has the first possible field of every column, only these fields are read. If another message lacks one of
    them, all possible fields are read.
    """
    preferred = [fields[0] for fields in names.by_column.values()]
    if (_object(first) or {}).keys() >= {*preferred}:
        frame = pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(preferred, pl.String))
        if not any(frame[fields[0]].null_count() for fields in names.by_column.values() if len(fields) > 1):
            return frame
    return pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(names.fields, pl.String))


def _read_separately(values: Sequence[bytes], names: Names) -> list[pl.DataFrame]:
    places: list[int] = []
    found: list[dict[str, str | None]] = []
    bad: list[int] = []
    reasons: list[str] = []
    for place, value in enumerate(values):
        read = _object(value)
        if read is not None:
            places.append(place)
            found.append({name: _cell(read.get(name)) for name in names.fields})
        else:
            bad.append(place)
            reasons.append(f"is not a JSON object; {shown(value.decode(errors='replace'))}")
    frame = pl.DataFrame(found, schema=dict.fromkeys(names.fields, pl.String))
    return [names.chosen(frame, pl.Series(places, dtype=pl.Int64)), problems(bad, reasons)]


def _object(message: bytes) -> dict[str, object] | None:
    """Return the fields of a message; None if it is not a JSON object."""
    try:
        read = json.loads(message, object_pairs_hook=_first_of_each)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _first_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Convert the pairs of a JSON object to a dict; among pairs with the same name, the first counts."""
    return dict(reversed(pairs))


def _cell(value: object) -> str | None:
    """Convert a JSON value to the same text as Polars does, so that both ways of reading agree."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value)
