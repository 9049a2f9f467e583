"""Put each row of a CSV file on one line, so that a stray quote affects only its own line."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.sources.files.byte_stream import ByteStream

# Stand-ins for the characters that `RowPerLine` replaces: private-use characters, which ordinary text lacks.
_LINE_FEED, _RETURN, _QUOTE, _DELIMITER = "\ue00a", "\ue00d", "\ue00b", "\ue00c"

_QUOTE_SIGN = ord('"')
# `_is_regular` examines text in pieces of this size: a piece and its arrays fit into a processor's cache.
_PIECE_BYTES = 1 << 17
_MOST_LINES = 50
_MOST_BYTES = 1 << 16
_LONGEST_BYTES = 8 << 20  # A line of more bytes than this is returned in pieces.


class RowPerLine(ByteStream):
    """A stream that returns the text of a CSV file, changed so that each row is on one line.

    Several lines are one row if quoted cells contain their line breaks and the row has as many cells as the
    header. In such a row, stand-ins replace the line breaks. A quote is stray if its cell does not end within
    50 lines. In a line with a stray quote, stand-ins replace all quotes and delimiters: the line becomes a
    single cell, and the lines below it stay rows. `restore` puts the replaced characters back.

    Attributes:
        has_replaced: whether any character has been replaced so far.
    """

    def __init__(self, file: BinaryIO, header_lines: int, delimiter: str, cells: int) -> None:
        """Read ``file``, a CSV file in UTF-8, from its beginning; ``cells`` is the number of columns."""
        super().__init__(file)
        self.has_replaced = False
        self._delimiter = delimiter
        self._cells = cells
        sign = re.escape(delimiter.encode())
        # Matches a complete cell. Inside a cell without an opening quote, a quote is an ordinary character.
        self._ending = re.compile(rb'(?:"(?:[^"]|"")*+"[^%b]*+|[^"%b][^%b]*+|)(?:%b|$)' % ((sign,) * 4))
        self._ready = b"".join(file.readline() for _ in range(header_lines))
        self._rest = b""

    def first_rows(self, size: int) -> bytes:
        """Return the complete rows of about the first ``size`` bytes of the stream."""
        rows = b""
        while len(rows) < size and self._fill(size - len(rows)):
            rows, self._ready = rows + self._ready, b""
        return rows

    def _convert(self, chunk: bytes) -> bytes:
        cut = self._end_of_lines(chunk)
        if not cut and not self._ended:
            self._rest += chunk
            return b""
        whole = b"".join((self._rest, memoryview(chunk)[:cut]))
        rows, waiting = self._with_rows_on_lines(whole)
        self._rest = waiting + chunk[cut:]
        return rows

    def _end_of_lines(self, chunk: bytes) -> int:
        """Return the length of a chunk up to the end of its last complete line; 0 if no line ends in it.

        At the end of the file, or if more than `_LONGEST_BYTES` bytes of earlier chunks wait for the end of
        their row, return the length of the whole chunk.
        """
        if self._ended or len(self._rest) > _LONGEST_BYTES:
            return len(chunk)
        if (end := chunk.rfind(b"\n") + 1) > 0:
            return end
        # Do not split after a carriage return at the end: it may be the first half of a line break.
        return chunk.rfind(b"\r", 0, -1) + 1

    def _with_rows_on_lines(self, text: bytes) -> tuple[bytes, bytes]:
        """Return the complete rows of ``text``, each on one line, and the unchanged rest of ``text``.

        The rest begins with a row that may continue after ``text``; it is empty if there is no such row.
        """
        signs = np.frombuffer(text, np.uint8)
        if b'"' not in text or self._is_regular(signs):
            return text, b""
        is_end, is_return = signs == ord("\n"), signs == ord("\r")
        is_return[:-1] &= ~is_end[1:]
        bounds = np.concatenate([[0], np.flatnonzero(is_end | is_return) + 1])
        if bounds[-1] < len(text):
            bounds = np.append(bounds, len(text))
        pieces: list[bytes] = []
        done = next_line = 0
        odd, irregular = self._quoted_lines(signs, bounds)
        following = dict(pairwise([*odd, None]))
        for line in sorted({*odd, *irregular}):
            start, after = int(bounds[line]), int(bounds[line + 1])
            if line < next_line or not self._is_open(text[start:after].rstrip(b"\r\n")):
                continue
            # The cell may end in the next line with an odd number of quotes. `closing` is None if there is no
            # such line, or if ``line`` itself has an even number of quotes.
            closing = following.get(line)
            lines = (len(bounds) - 1 if closing is None else closing + 1) - line
            stop = int(bounds[line + lines])
            is_near = line in following and lines <= _MOST_LINES and stop - start <= _MOST_BYTES
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

    def _is_regular(self, signs: NDArray[np.uint8]) -> bool:
        """Return whether all quotes of a text belong to quoted cells that begin and end in one line."""
        was_inside = False
        for start in range(0, len(signs), _PIECE_BYTES):
            piece = signs[start : start + _PIECE_BYTES]
            is_quote = piece == _QUOTE_SIGN
            # For each byte, whether it is inside of quotes; it is True for the quote that opens a cell.
            inside = np.bitwise_xor.accumulate(is_quote.view(np.uint8)).view(bool) ^ was_inside
            # `around` tells whether a byte is an edge: for the byte before the piece, for each byte of the
            # piece, and for the byte after it. The start and the end of the text count as edges, too.
            edges = self._is_edge(signs[max(start - 1, 0) : start + _PIECE_BYTES + 1])
            around = np.ones(len(piece) + 2, bool)
            first = int(start == 0)
            around[first : first + len(edges)] = edges
            is_placed = (inside & around[:-2]) | (~inside & around[2:])
            is_line_end = (piece == ord("\n")) | (piece == ord("\r"))
            if ((is_quote & ~is_placed) | (is_line_end & inside)).any():
                return False
            was_inside = bool(inside[-1])
        return not was_inside

    def _is_edge(self, signs: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return for each byte whether it may be right before an opening or right after a closing quote."""
        is_edge: NDArray[np.bool_] = (signs == _QUOTE_SIGN) | (signs == ord(self._delimiter))
        is_edge |= (signs == ord("\n")) | (signs == ord("\r"))
        return is_edge

    def _quoted_lines(
        self, signs: NDArray[np.uint8], bounds: NDArray[np.int64]
    ) -> tuple[list[int], list[int]]:
        """Return two lists of line indices: lines with an odd number of quotes, lines with a misplaced quote.

        An opening quote is misplaced if cell text is before it, and a closing quote if cell text is after it.
        """
        at = np.flatnonzero(signs == _QUOTE_SIGN)
        firsts = np.searchsorted(at, bounds)
        counts = np.diff(firsts)
        is_opening = (np.arange(len(at)) - np.repeat(firsts[:-1], counts)) % 2 == 0
        around = np.concatenate([[True], self._is_edge(signs), [True]])
        odd_place = at[~np.where(is_opening, around[at], around[at + 2])]
        irregular = np.unique(np.searchsorted(bounds, odd_place, side="right") - 1)
        return np.flatnonzero(counts % 2).tolist(), irregular.tolist()

    def _is_open(self, line: bytes) -> bool:
        """Return whether a line ends inside a quoted cell; its row may then continue in the next line."""
        place = 0
        while (found := self._ending.match(line, place)) is not None:
            place = found.end()
            if place == len(line):
                return False
        return True

    def _as_one_cell(self, line: bytes) -> bytes:
        """Return a line as a single cell: stand-in characters replace its quotes and delimiters."""
        plain = line.replace(b'"', _QUOTE.encode())
        return plain.replace(self._delimiter.encode(), _DELIMITER.encode())

    def restore(self, text: str) -> str:
        """Return a text with its stand-ins replaced by the original quotes, delimiters and line breaks."""
        for sign, stand_in in self._stand_ins():
            text = text.replace(stand_in, sign)
        return text

    def restore_cells(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a frame of String columns with the stand-ins replaced by the original characters."""
        if not self.has_replaced:
            return frame
        cells = pl.all()
        for sign, stand_in in self._stand_ins():
            cells = cells.str.replace_all(stand_in, sign, literal=True)
        return frame.with_columns(cells)

    def has_stray_quote(self, text: str) -> bool:
        """Return whether the line has a stray quote. Only such lines contain the stand-in of a quote."""
        return _QUOTE in text

    def _stand_ins(self) -> tuple[tuple[str, str], ...]:
        return ("\n", _LINE_FEED), ("\r", _RETURN), ('"', _QUOTE), (self._delimiter, _DELIMITER)

    def _is_row(self, text: bytes) -> bool:
        """Return whether several lines of text together are one row with as many cells as the header."""
        # Latin-1 decodes any bytes. The characters may be wrong, but the number of cells is right.
        lines = io.StringIO(text.decode("latin-1"), newline="")
        try:
            rows = list(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return False
        return [len(row) for row in rows] == [self._cells]


def _on_one_line(row: bytes) -> bytes:
    """Return a row with the line breaks inside it replaced by stand-ins."""
    body = row.rstrip(b"\r\n")
    inside = body.replace(b"\n", _LINE_FEED.encode()).replace(b"\r", _RETURN.encode())
    return inside + row[len(body) :]
