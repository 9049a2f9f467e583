"""One JSON object a message."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import polars as pl

from pipelines.sources.messages.base import Decoder, Messages, problems, shown
from pipelines.sources.messages.field_names import Names


def json_decoder(names: Names) -> Decoder:
    """Decodes objects; their cells are text, a list or an object as JSON.

    The messages of a poll are read at once. Where that fails, NaN and Infinity among the reasons, each is
    read on its own, which takes twenty times as long.
    """

    def decode(messages: Messages) -> list[pl.DataFrame]:
        values = [value or b"" for value in messages.values]
        lines = b"\n".join(values)
        if lines.count(b"\n") >= len(values):  # a line break within JSON is a blank, in text it is written \n
            lines = b"\n".join(value.replace(b"\n", b" ") for value in values)
        try:
            frame = _at_once(lines, values[0], names)
        except pl.exceptions.PolarsError:
            return _one_by_one(values, names)
        if len(frame) != len(values):
            return _one_by_one(values, names)
        return [names.chosen(frame, pl.int_range(len(values), dtype=pl.Int64, eager=True))]

    return decode


def _at_once(lines: bytes, first: bytes, names: Names) -> pl.DataFrame:
    """The fields of all lines; those that no line needs are left out, for to look for a field takes time.

    None is needed beside one that comes before it and is there in every line.
    """
    foremost = [known[0] for known in names.by_column.values()]
    if all(f'"{name}"'.encode() in first for name in foremost):
        frame = pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(foremost, pl.String))
        if not any(frame[known[0]].null_count() for known in names.by_column.values() if len(known) > 1):
            return frame
    return pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(names.fields, pl.String))


def _one_by_one(values: Sequence[bytes], names: Names) -> list[pl.DataFrame]:
    places: list[int] = []
    found: list[dict[str, str | None]] = []
    bad: list[int] = []
    reasons: list[str] = []
    for place, value in enumerate(values):
        try:
            read = json.loads(value, object_pairs_hook=_first_of_each)
        except (ValueError, RecursionError):
            read = None
        if isinstance(read, dict):
            places.append(place)
            found.append({name: _cell(read.get(name)) for name in names.fields})
        else:
            bad.append(place)
            reasons.append(f"is no JSON object; {shown(value.decode(errors='replace'))}")
    frame = pl.DataFrame(found, schema=dict.fromkeys(names.fields, pl.String))
    return [names.chosen(frame, pl.Series(places, dtype=pl.Int64)), problems(bad, reasons)]


def _first_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """As Polars has it where a name comes twice."""
    return dict(reversed(pairs))


def _cell(value: object) -> str | None:
    """As Polars writes it, so that a message reads alike whatever stands beside it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value)
