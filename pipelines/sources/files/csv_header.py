"""Read the header of a CSV file: the column names, the delimiter, and the length of the header."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv

from schemas.errors import DataError

UNNAMED = "(unnamed "

_LONGEST_BYTES = 8 << 20
_MOST_LINES = 50
_QUOTED, _QUOTED_BYTES = re.compile(r'"(?:[^"]|"")*"'), re.compile(rb'"(?:[^"]|"")*"')
# Finds a quote that opens a cell, in a text from which complete quoted cells were removed.
_OPEN = re.compile(rb'(?:^|[,;\t|])\s*"')


class Header(NamedTuple):
    """The header of a CSV file.

    Attributes:
        names: the names of the columns; the first column is called ``(unnamed 1)`` if it has no name.
        delimiter: the character between cells.
        lines: the number of lines from the beginning of the file to the end of the header.
        size: the length of the header in bytes.
    """

    names: list[str]
    delimiter: str
    lines: int
    size: int


def read_header(path: Path, file: BinaryIO) -> Header:
    """Read the header of a CSV file.

    Args:
        path: the name of the file in error messages.
        file: the text of the file in UTF-8, at its beginning.

    Raises:
        DataError: the file is empty, is not CSV, or has an invalid header; the message names the fix.
    """
    read = enumerate(iter(lambda: file.readline(_LONGEST_BYTES), b""), 1)
    lines, line = next((found for found in read if found[1].strip()), (0, b""))
    if not lines:
        raise DataError(f"{path}: is empty")
    lines, line = _with_line_breaks(lines, line, read)
    if len(line) >= _LONGEST_BYTES:
        raise DataError(
            f"{path}: its header is longer than {_LONGEST_BYTES:,} bytes: write the file in long layout, "
            "with one row for each series and time"
        )
    text = line.decode("utf-8-sig").rstrip("\r\n")
    if any(not c.isprintable() and c not in "\t\r\n" for c in text):
        raise DataError(f"{path}: is not a CSV file: its first line is not text")
    delimiter = _delimiter(text)
    names = [" ".join(name.splitlines()).strip() for name in _cells_of(path, text, delimiter)]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}: rename one")
    named = [name or f"{UNNAMED}{i})" for i, name in enumerate(names, 1)]
    return Header(named, delimiter, lines, len(line))


def _with_line_breaks(lines: int, line: bytes, rest: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Add the next lines to the header while a quoted cell of the header is open.

    Returns:
        The number of the header's last line, and the bytes of the whole header.
    """
    last, whole = lines, line
    while _OPEN.search(_QUOTED_BYTES.sub(b"", whole)):
        last, more = next(rest, (last, b""))
        if not more or last > lines + _MOST_LINES or len(whole) > _LONGEST_BYTES:
            return lines, line  # The quote is stray, so the header ends with the first line.
        whole += more
    return last, whole


def _delimiter(header: str) -> str:
    """Return the delimiter of a header: the candidate that occurs most often outside of quotes."""
    plain = _QUOTED.sub("", header)
    return max(";\t|,", key=plain.count)


def _cells_of(path: Path, line: str, delimiter: str) -> list[str]:
    """Return the cells of a header line, split by the same rules as the rows of the file."""
    most_cells = line.count(delimiter) + 1
    try:
        table = pacsv.read_csv(
            io.BytesIO(line.encode() + b"\n"),
            pacsv.ReadOptions(
                use_threads=False, autogenerate_column_names=True, block_size=8 * len(line) + 64
            ),
            pacsv.ParseOptions(delimiter=delimiter, newlines_in_values="\n" in line),
            pacsv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(most_cells)}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        raise DataError(f"{path}: a quote in its header does not end: delete or close the quote") from None
    return [str(column[0].as_py()) for column in table.columns]
