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

# Each replaced character has a stand-in: a private-use character, which ordinary text does not have.
_LINE_FEED, _RETURN, _QUOTE, _DELIMITER = "\ue00a", "\ue00d", "\ue00b", "\ue00c"

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

    _CHUNK = 1 << 20

    def __init__(self, file: BinaryIO, header_lines: int, delimiter: str, cells: int) -> None:
        """Read ``file``, a CSV file in UTF-8, from its beginning; ``cells`` is the number of columns."""
        super().__init__(file)
        self.has_replaced = False
        self._delimiter = delimiter
        self._cells = cells
        # For each byte value, whether it may come before a cell's opening quote or after its closing quote.
        self._edges = np.zeros(256, bool)
        self._edges[list(f'"\r\n{delimiter}'.encode())] = True
        sign = re.escape(delimiter.encode())
        # Matches a complete cell. Inside a cell without an opening quote, a quote is an ordinary character.
        self._ending = re.compile(rb'(?:"(?:[^"]|"")*+"[^%b]*+|[^"%b][^%b]*+|)(?:%b|$)' % ((sign,) * 4))
        self._ready = b"".join(file.readline() for _ in range(header_lines))
        self._rest = b""

    def _convert(self, chunk: bytes) -> bytes:
        whole, tail = self._split_at_last_line(self._rest + chunk)
        rows, waiting = self._with_rows_on_lines(whole)
        self._rest = waiting + tail
        return rows

    def _split_at_last_line(self, text: bytes) -> tuple[bytes, bytes]:
        """Return the complete lines at the beginning of a text, and the incomplete line at its end."""
        # Do not split after a carriage return at the end: it may be the first half of a line break.
        cut = len(text) if self._ended else max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
        if not cut and len(text) > _LONGEST_BYTES:
            cut = len(text)
        return text[:cut], text[cut:]

    def _with_rows_on_lines(self, text: bytes) -> tuple[bytes, bytes]:
        """Return a text's complete rows, each on one line, and the unfinished row at the end of the text."""
        if b'"' not in text:
            return text, b""
        signs = np.frombuffer(text, np.uint8)
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
            closing = following.get(line)  # the next line with an odd number of quotes
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

    def _quoted_lines(
        self, signs: NDArray[np.uint8], bounds: NDArray[np.int64]
    ) -> tuple[list[int], list[int]]:
        """Return the indices of two kinds of lines: with an odd number of quotes, and with a misplaced quote.

        An opening quote is misplaced if cell text is before it, and a closing quote if cell text is after it.
        """
        at = np.flatnonzero(signs == ord('"'))
        firsts = np.searchsorted(at, bounds)
        counts = np.diff(firsts)
        is_opening = (np.arange(len(at)) - np.repeat(firsts[:-1], counts)) % 2 == 0
        end = np.array([ord("\n")], np.uint8)
        around = np.concatenate([end, signs, end])
        beside = np.where(is_opening, around[at], around[at + 2])
        odd_place = at[~self._edges[beside]]
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

    def is_stray(self, text: str) -> bool:
        """Return whether a line has the stand-in of a quote, so that the file's line has a stray quote."""
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


def row_per_line(
    file: BinaryIO, header_lines: int, delimiter: str, cells: int
) -> tuple[BinaryIO, RowPerLine]:
    """Return a buffered reader with one row of a CSV file per line, and the `RowPerLine` that it reads."""
    raw = RowPerLine(file, header_lines, delimiter, cells)
    return raw.buffered(), raw
