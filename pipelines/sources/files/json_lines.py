"""Read files of JSON lines: the keys of the objects, and the values of chosen keys as text columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import polars as pl

from schemas.errors import DataError

_KEY_LINES = 1_000  # column names are collected from this many lines at the beginning of a file


def first_keys(path: Path, file: BinaryIO) -> list[str]:
    """Return the keys of the objects in the first lines of an open file; blank lines are skipped.

    Raises:
        DataError: all lines are blank, or one of the first is not a JSON object; the message names ``path``
            and the line.
    """
    filled = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    keys: dict[str, None] = {}
    number = 0
    for number, line in islice(filled, _KEY_LINES):
        keys |= dict.fromkeys(_object(path, number, line))
    if not number:
        raise DataError(f"{path}: is empty")
    return list(keys)


def all_keys(file: BinaryIO) -> list[str]:
    """Return the keys of all JSON objects of an open file; lines that are not JSON objects are skipped."""
    found: dict[str, None] = {}
    filled = (line for line in file if line.strip())
    while lines := list(islice(filled, _KEY_LINES * 10)):
        try:
            keys = pl.read_ndjson(io.BytesIO(b"".join(lines)), infer_schema_length=None).columns
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            # Skip a broken line without an error, because `frames` raises the error for it later.
            keys = [key for line in lines for key in _keys(line)]
        found |= dict.fromkeys(keys)
    return list(found)


def frames(path: Path, file: BinaryIO, names: list[str], rows: int) -> Iterator[pl.DataFrame]:
    """Yield the objects of an open file as String columns, in frames of at most ``rows`` rows.

    Blank lines are skipped.

    Raises:
        DataError: a line is not a JSON object; the message names ``path`` and the line.
    """
    number = 0
    while lines := list(islice(file, rows)):
        if any(line.strip() for line in lines):
            yield _objects(path, names, lines, number)
        number += len(lines)


def _keys(line: bytes) -> list[str]:
    try:
        one = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(one) if isinstance(one, dict) else []


def _objects(path: Path, names: list[str], lines: list[bytes], before: int) -> pl.DataFrame:
    """Convert JSON lines to a frame of String columns; ``before`` is the number of lines before them."""
    schema = dict.fromkeys(names, pl.String)
    filled = [line for line in lines if line.strip()]
    try:
        frame = pl.read_ndjson(io.BytesIO(b"".join(filled)), schema=schema)
        if frame.height == len(filled):
            return frame
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pass  # Parse each line by itself below: this is slower, but accepts NaN and finds the faulty line.
    found = [_object(path, before + i, line) for i, line in enumerate(lines, 1) if line.strip()]
    return pl.DataFrame([{name: _cell(one.get(name)) for name in names} for one in found], schema=schema)


def _object(path: Path, number: int, line: bytes) -> dict[str, object]:
    try:
        # Return numbers as their text, and accept NaN and Infinity, which many programs write.
        found = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: line {number} is not a JSON object: correct or delete it")
    return found


def _cell(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))
