"""Tests of `RowPerLine`, which converts a CSV file so that each row is on one line, without a loss of text.

A row of the original file may extend over several lines, because quoted cells may contain newlines.
"""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow.csv as pacsv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.sources.files import csv_lines
from pipelines.sources.files.csv_lines import RowPerLine

TEXTS = st.text('a,"\n\r;é', max_size=6)


class Trickle(io.BytesIO):
    """A file whose method `read` returns at most 3 bytes in each call."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3)


def read(text: str, cells: int, *, slowly: bool = False) -> tuple[str, RowPerLine]:
    file = Trickle(text.encode()) if slowly else io.BytesIO(text.encode())
    stream = RowPerLine(file, 1, ",", cells)
    return stream.readall().decode(), stream


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=20), st.booleans())
def test_rows_with_quoted_newlines_become_single_lines_without_loss(
    rows: list[list[str]], slowly: bool
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    found, stream = read(text.getvalue(), 2, slowly=slowly)
    lines = [stream.restore(line) for line in found.split("\r\n")[1:-1]]
    assert [next(csv.reader(io.StringIO(line, newline=""))) for line in lines] == rows


@given(st.text('a,"\n\r', max_size=200))
def test_row_per_line_restores_the_original_csv_text(text: str) -> None:
    text = "x,y\n" + text
    found, stream = read(text, 2)
    assert stream.restore(found) == text
    assert read(text, 2, slowly=True)[0] == found


@given(st.text('a,"\n\r', max_size=60), st.integers(1, 9))
@example('"\n"', 1)  # a cell that begins in one piece and ends in another
def test_the_fast_check_of_quotes_does_not_change_the_lines(text: str, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "_PIECE_BYTES", piece_bytes)
        fast, _ = read("x,y\n" + text, 2)
        patch.setattr(RowPerLine, "_is_regular", lambda *_: False)
        assert read("x,y\n" + text, 2)[0] == fast


@given(st.lists(st.lists(st.text('a,"', max_size=4), min_size=2, max_size=2), min_size=1), st.integers(1, 9))
def test_is_regular_accepts_quoted_cells_without_line_breaks(rows: list[list[str]], piece_bytes: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    _, stream = read("x,y\n", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "_PIECE_BYTES", piece_bytes)
        assert stream._is_regular(np.frombuffer(text.getvalue().encode(), np.uint8))


@given(st.lists(st.text('a,"\n\r', max_size=9), max_size=9), st.integers(1, 40))
def test_reads_but_the_last_give_half_their_size_or_more(lines: list[str], size: int) -> None:
    text = "\n".join(["x,y", *lines])
    stream = RowPerLine(io.BytesIO(text.encode()), 1, ",", 2)
    pieces = list(iter(lambda: stream.read(size), b""))
    assert all(size <= 2 * len(piece) <= 2 * size for piece in pieces[:-1])
    assert b"".join(pieces).decode() == read(text, 2)[0]


@given(st.text('a,"\n', max_size=200))
def test_pyarrow_reads_or_skips_one_row_per_converted_line(text: str) -> None:
    found, _ = read("x,y\n" + text, 2)
    bad: list[object] = []

    def skip(row: object) -> str:
        bad.append(row)
        return "skip"

    table = pacsv.read_csv(
        io.BytesIO(found.encode()),
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(invalid_row_handler=skip),
    )
    assert len(table) + len(bad) == len([line for line in found.split("\n")[1:] if line])


@pytest.mark.parametrize("stray", ['"1,2', '5","6', '"1,"2', '1,""2'])
def test_a_stray_quote_leaves_the_lines_below_unchanged(stray: str) -> None:
    below = "3,4\n" * 10 + '5,"6"\n' + "7,8\n" * csv_lines._MOST_LINES
    found, stream = read(f"x,y\n{stray}\n{below}", 2)
    first, rest = found.removeprefix("x,y\n").split("\n", 1)
    assert (rest, stream.restore(first)) == (below, stray)
    # Of the values of ``stray``, only '"1,2' and '5","6' open a quoted field without closing it.
    assert stream.has_stray_quote(first) == (stray in ('"1,2', '5","6'))
