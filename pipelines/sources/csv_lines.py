"""Text of CSV files with each row on one line: a row is a line, and a stray quote ends with its line."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from typing import BinaryIO, cast

import numpy as np

LINE_BREAK = "\ue00a"
"""What stands for a line break inside a quoted cell."""

_CHUNK = 1 << 20
_MOST_LINES = 50
_MOST_BYTES = 1 << 16
_LONGEST_BYTES = 8 << 20  # a longer line is passed on in pieces


class RowPerLine(io.RawIOBase):
    """A stream of a CSV file's text, in which line breaks inside quoted cells are `LINE_BREAK`.

    Lines are one row if a quoted cell goes on over their ends and the row has as many cells as the header.
    A quote that no later quote closes within 50 lines is a stray one, and its line stays as it is.

    Attributes:
        has_joined: whether a line break was replaced so far.
    """

    def __init__(self, file: BinaryIO, header_lines: int, delimiter: str, cells: int) -> None:
        """``file`` is UTF-8 text from its beginning; ``cells`` is the number of the header's cells."""
        self.has_joined = False
        self._file = file
        self._delimiter = delimiter
        self._cells = cells
        self._ready = b"".join(file.readline() for _ in range(header_lines))
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        while not self._ready and not self._ended:
            chunk = self._file.read(_CHUNK)
            self._ended = not chunk
            whole, tail = self._whole_lines(self._rest + chunk)
            self._ready, waiting = self._joined(whole)
            self._rest = waiting + tail
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _whole_lines(self, text: bytes) -> tuple[bytes, bytes]:
        """The lines of a text that have an end, and the rest."""
        # a carriage return at the very end may be the first half of a line's end
        cut = len(text) if self._ended else max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        if not cut and len(text) > _LONGEST_BYTES:
            cut = len(text)
        return text[:cut], text[cut:]

    def _joined(self, text: bytes) -> tuple[bytes, bytes]:
        """The text with each row on one line, and the beginning of a row that later text may end."""
        if b'"' not in text:
            return text, b""
        signs = np.frombuffer(text, np.uint8)
        is_end, is_return = signs == ord("\n"), signs == ord("\r")
        is_return[:-1] &= ~is_end[1:]
        bounds = np.concatenate([[0], np.flatnonzero(is_end | is_return) + 1])
        if bounds[-1] < len(text):
            bounds = np.append(bounds, len(text))
        quotes = np.searchsorted(np.flatnonzero(signs == ord('"')), bounds)
        odd = [
            int(line) for line in np.flatnonzero(np.diff(quotes) % 2)
        ]  # a quoted cell begins or ends there
        pieces, done, next_line = [], 0, 0
        for line, closing in pairwise([*odd, None]):
            if line is None or line < next_line:
                continue
            start, lines = int(bounds[line]), (len(bounds) - 1 if closing is None else closing + 1) - line
            stop = int(bounds[line + lines])
            if lines > _MOST_LINES or stop - start > _MOST_BYTES:
                continue
            if closing is None:
                if self._ended:
                    continue
                return b"".join([*pieces, text[done:start]]), text[start:]
            if self._is_row(text[start:stop]):
                pieces += [text[done:start], _on_one_line(text[start:stop])]
                done, next_line, self.has_joined = stop, closing + 1, True
        return b"".join([*pieces, text[done:]]), b""

    def _is_row(self, text: bytes) -> bool:
        lines = io.StringIO(text.decode("latin-1"), newline="")  # each byte a letter: cells are only counted
        try:
            rows = list(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return False
        return [len(row) for row in rows] == [self._cells]


def _on_one_line(row: bytes) -> bytes:
    body = row.rstrip(b"\r\n")
    inside = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", LINE_BREAK.encode())
    return inside + row[len(body) :]


def row_per_line(
    file: BinaryIO, header_lines: int, delimiter: str, cells: int
) -> tuple[BinaryIO, RowPerLine]:
    """Return a buffered `RowPerLine`, and the stream itself, which knows whether it has joined lines."""
    raw = RowPerLine(file, header_lines, delimiter, cells)
    return cast(BinaryIO, io.BufferedReader(raw, _CHUNK)), raw
