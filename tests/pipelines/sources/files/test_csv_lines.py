"""Tests of `RowPerLine`, which converts a CSV file so that each row is on one line, without a loss of text.

A row of the original file may extend over several lines, because quoted cells may contain newlines.
"""

from __future__ import annotations

import csv
import io

import pyarrow.csv as pacsv
import pytest
from hypothesis import given
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
def test_each_row_of_a_well_formed_file_is_one_line(rows: list[list[str]], slowly: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    found, stream = read(text.getvalue(), 2, slowly=slowly)
    lines = [stream.restore(line) for line in found.split("\r\n")[1:-1]]
    assert [next(csv.reader(io.StringIO(line, newline=""))) for line in lines] == rows


@given(st.text('a,"\n\r', max_size=200))
def test_restore_reverses_row_per_line_for_any_text(text: str) -> None:
    text = "x,y\n" + text
    found, stream = read(text, 2)
    assert stream.restore(found) == text
    assert read(text, 2, slowly=True)[0] == found


@given(st.text('a,"\n', max_size=200))
def test_a_csv_parser_reads_each_converted_line_as_one_row(text: str) -> None:
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
    # Only the texts "1,2 and 5","6 open a quote that they do not close.
    assert stream.is_stray(first) == (stray in ('"1,2', '5","6'))
