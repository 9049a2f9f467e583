"""Read the text of a CSV file with each row on one line, so that a stray quote affects only its own line.

Line breaks, quotes and delimiters inside cells are replaced by letters for private use, which are replaced
back after parsing.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import BinaryIO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Letters of Unicode's private use area, which ordinary text does not contain.
_LINE_FEED, _RETURN, _QUOTE, _DELIMITER = "\ue00a", "\ue00d", "\ue00b", "\ue00c"

_CHUNK = 1 << 20
_MAX_ROW_LINES = 50
_MAX_ROW_BYTES = 1 << 16
_MAX_LINE_BYTES = 8 << 20  # a longer line is passed on in pieces, to bound memory


class RowPerLine(io.RawIOBase):
    """A stream of the text of a CSV file in which each row is exactly one line.

    Several lines are joined to one row if a quoted cell continues over their ends and the row has as many
    cells as the header. The line breaks inside its cells are replaced by other characters. If a quoted cell
    does not end within 50 lines and 64 KB, its quote is stray: the line with the quote becomes one cell
    without quotes, so that a parser does not take the lines below it for a part of the cell. `restore`
    reverses the replacements.

    Attributes:
        has_replaced: whether a character has been replaced so far.
    """

    def __init__(self, file: BinaryIO, header_lines: int, delimiter: str, cells: int) -> None:
        """Begin a stream.

        Args:
            file: UTF-8 text, at its beginning.
            header_lines: number of first lines that are passed on unchanged.
            delimiter: the character between cells.
            cells: number of cells in the header.
        """
        self.has_replaced = False
        self._file = file
        self._delimiter = delimiter
        self._cells = cells
        # [byte] -> whether the byte may stand outside of a quote that begins or ends a regular cell
        self._allowed_neighbours = np.zeros(256, bool)
        self._allowed_neighbours[list(f'"\r\n{delimiter}'.encode())] = True
        mark = re.escape(delimiter.encode())
        # A cell with its delimiter: quoted, plain or empty. In a plain cell a quote is an ordinary character.
        self._complete_cell = re.compile(
            rb'(?:"(?:[^"]|"")*+"[^%b]*+|[^"%b][^%b]*+|)(?:%b|$)' % ((mark,) * 4)
        )
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
            whole, tail = self._split_complete_lines(self._rest + chunk)
            self._ready, waiting = self._join_rows(whole)
            self._rest = waiting + tail
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _split_complete_lines(self, text: bytes) -> tuple[bytes, bytes]:
        """Split a text into its complete lines and the unfinished rest."""
        # A carriage return at the very end may be the first half of a Windows line break.
        cut = len(text) if self._ended else max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        if not cut and len(text) > _MAX_LINE_BYTES:
            cut = len(text)
        return text[:cut], text[cut:]

    def _join_rows(self, text: bytes) -> tuple[bytes, bytes]:
        """Return complete lines with each row on one line, and the lines of a last row that may continue."""
        if b'"' not in text:
            return text, b""
        data = np.frombuffer(text, np.uint8)
        is_end, is_return = data == ord("\n"), data == ord("\r")
        is_return[:-1] &= ~is_end[1:]
        bounds = np.concatenate([[0], np.flatnonzero(is_end | is_return) + 1])
        if bounds[-1] < len(text):
            bounds = np.append(bounds, len(text))
        pieces: list[bytes] = []
        done = next_line = 0
        odd_lines, irregular = self._quoted_lines(data, bounds)
        following = dict(pairwise([*odd_lines, None]))
        for line in sorted({*odd_lines, *irregular}):
            start, after = int(bounds[line]), int(bounds[line + 1])
            if line < next_line or not self._ends_in_quotes(text[start:after].rstrip(b"\r\n")):
                continue
            # The quoted cell can end only in the next line with an odd number of quotes.
            closing = following.get(line)
            lines = (len(bounds) - 1 if closing is None else closing + 1) - line
            stop = int(bounds[line + lines])
            is_near = line in following and lines <= _MAX_ROW_LINES and stop - start <= _MAX_ROW_BYTES
            if is_near and closing is None and not self._ended:
                return b"".join([*pieces, text[done:start]]), text[start:]
            self.has_replaced = True
            if is_near and closing is not None and self._is_row(text[start:stop]):
                pieces += [text[done:start], _on_one_line(text[start:stop])]
                done, next_line = stop, closing + 1
            else:
                pieces += [text[done:start], self._as_one_cell(text[start:after])]
                done, next_line = after, line + 1
        return b"".join([*pieces, text[done:]]), b""

    def _quoted_lines(
        self, data: NDArray[np.uint8], bounds: NDArray[np.int64]
    ) -> tuple[list[int], list[int]]:
        """Return the lines with an odd number of quotes, and the lines with a quote at an unusual place.

        A place is unusual if no cell can begin or end there.

        Args:
            data: ``[bytes]``, the text.
            bounds: ``[lines + 1]``, the first byte of each line, and the end of the text.
        """
        at = np.flatnonzero(data == ord('"'))
        firsts = np.searchsorted(at, bounds)
        counts = np.diff(firsts)
        is_opening = (np.arange(len(at)) - np.repeat(firsts[:-1], counts)) % 2 == 0
        end = np.array([ord("\n")], np.uint8)
        around = np.concatenate([end, data, end])
        beside = np.where(is_opening, around[at], around[at + 2])
        odd_place = at[~self._allowed_neighbours[beside]]
        irregular = np.unique(np.searchsorted(bounds, odd_place, side="right") - 1)
        return np.flatnonzero(counts % 2).tolist(), irregular.tolist()

    def _ends_in_quotes(self, line: bytes) -> bool:
        """Return whether a line ends inside a quoted cell."""
        position = 0
        while (found := self._complete_cell.match(line, position)) is not None:
            position = found.end()
            if position == len(line):
                return False
        return True

    def _as_one_cell(self, line: bytes) -> bytes:
        plain = line.replace(b'"', _QUOTE.encode())
        return plain.replace(self._delimiter.encode(), _DELIMITER.encode())

    def restore(self, text: str) -> str:
        """Return a text with the original characters in place of their replacements."""
        for original, replacement in self._replaced():
            text = text.replace(replacement, original)
        return text

    def restore_cells(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a frame of String columns with the original characters in place of their replacements."""
        if not self.has_replaced:
            return frame
        cells = pl.all()
        for original, replacement in self._replaced():
            cells = cells.str.replace_all(replacement, original, literal=True)
        return frame.with_columns(cells)

    def is_stray(self, text: str) -> bool:
        """Return whether a line of the stream had a quoted cell that does not end."""
        return _QUOTE in text

    def _replaced(self) -> tuple[tuple[str, str], ...]:
        return ("\n", _LINE_FEED), ("\r", _RETURN), ('"', _QUOTE), (self._delimiter, _DELIMITER)

    def _is_row(self, text: bytes) -> bool:
        # Latin-1 decodes any bytes, and that is enough to count cells.
        lines = io.StringIO(text.decode("latin-1"), newline="")
        try:
            rows = list(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return False
        return [len(row) for row in rows] == [self._cells]


def _on_one_line(row: bytes) -> bytes:
    body = row.rstrip(b"\r\n")
    inside = body.replace(b"\n", _LINE_FEED.encode()).replace(b"\r", _RETURN.encode())
    return inside + row[len(body) :]


def row_per_line(
    file: BinaryIO, header_lines: int, delimiter: str, cells: int
) -> tuple[BinaryIO, RowPerLine]:
    """Return a buffered reader of a `RowPerLine`, and the `RowPerLine` itself, for `RowPerLine.restore`."""
    raw = RowPerLine(file, header_lines, delimiter, cells)
    return cast(BinaryIO, io.BufferedReader(raw, _CHUNK)), raw
