"""Decode messages that each hold one JSON object."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence

import polars as pl

from pipelines.sources.messages.base import Decoder, Messages, problems, shown
from pipelines.sources.messages.field_names import Names


def json_decoder(names: Names) -> Decoder:
    """Return a decoder of JSON objects; all cells are text, and lists and objects are JSON text.

    All messages of a poll are read at once. If this fails, for example because of NaN, messages that are no
    JSON object are left out, and NaN is replaced by text. If Polars cannot read the rest either, the decoder
    raises ValueError, and `decoded` halves the messages. So each message gives the same rows alone and beside
    others.
    """

    def decode(messages: Messages) -> list[pl.DataFrame]:
        # A message may contain line breaks. JSON has them only between tokens, so blanks may replace them.
        values = [(value or b"").replace(b"\n", b" ") for value in messages.values]
        places = range(len(values))
        frame = _read_together(values, places, names)
        if frame is not None:
            return [frame]
        objects = [_as_object(value) for value in values]
        bad = [place for place in places if objects[place] is None]
        good = [place for place in places if objects[place] is not None]
        frame = _read_together([value or b"" for value in objects], good, names) if good else None
        if frame is not None:
            return [frame, _problems(values, bad)]
        if good and len(values) > 1:
            raise ValueError("Polars cannot read one of the messages")  # `decoded` halves the messages then
        return [_problems(values, places)]

    return decode


def _read_together(values: Sequence[bytes], places: Sequence[int], names: Names) -> pl.DataFrame | None:
    """Return the rows of the messages at ``places``, read in one call; None if one of them cannot be read.

    A column may have several possible fields; the first field that is not null counts. If the first message
    has the first possible field of every column, only these fields are read. If another message lacks one of
    them, all possible fields are read.
    """
    lines = b"\n".join([values[place] for place in places])
    preferred = [fields[0] for fields in names.by_column.values()]
    frame: pl.DataFrame | None = None
    try:
        if _has_fields(values[places[0]], preferred):
            frame = pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(preferred, pl.String))
            if any(frame[fields[0]].null_count() for fields in names.by_column.values() if len(fields) > 1):
                frame = None
        if frame is None:
            frame = pl.read_ndjson(io.BytesIO(lines), schema=dict.fromkeys(names.fields, pl.String))
    except pl.exceptions.PolarsError:
        return None
    return names.chosen(frame, pl.Series(places, dtype=pl.Int64)) if len(frame) == len(places) else None


def _problems(values: Sequence[bytes], places: Sequence[int]) -> pl.DataFrame:
    texts = [shown(values[place].decode(errors="replace")) for place in places]
    return problems(places, [f"is not a JSON object; {text}" for text in texts])


def _has_fields(message: bytes, fields: Sequence[str]) -> bool:
    """Return True if a message is a JSON object with all these fields."""
    try:
        read = json.loads(message)
    except (ValueError, RecursionError):
        return False
    return isinstance(read, dict) and read.keys() >= {*fields}


def _as_object(message: bytes) -> bytes | None:
    """Return a message with NaN and infinite numbers as text, because JSON lacks them.

    None if the message is not a JSON object: Polars cannot read it either.
    """
    replaced: list[str] = []

    def as_text(token: str) -> str:
        replaced.append(token)
        return token

    def as_number(token: str) -> float | str:
        number = float(token)
        return number if math.isfinite(number) else as_text(token)

    try:
        read = json.loads(
            message, parse_constant=as_text, parse_float=as_number, object_pairs_hook=_first_of_each
        )
    except RecursionError:
        return message
    except ValueError:
        return None
    if not isinstance(read, dict):
        return None
    return json.dumps(read).encode() if replaced else message


def _first_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Convert the pairs of a JSON object to a dict; among pairs with the same name, the first counts."""
    return dict(reversed(pairs))
