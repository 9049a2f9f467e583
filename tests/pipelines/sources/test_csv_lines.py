from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources import csv_lines
from pipelines.sources.csv_lines import LINE_BREAK, RowPerLine

TEXTS = st.text('a,"\n\r;é', max_size=6)


class Trickle(io.BytesIO):
    """A file that is read a few bytes at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3)


def read(text: str, cells: int, *, slowly: bool = False) -> str:
    file = Trickle(text.encode()) if slowly else io.BytesIO(text.encode())
    stream = RowPerLine(file, 1, ",", cells)
    return stream.readall().decode()


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=20), st.booleans())
def test_each_row_of_a_well_formed_file_is_one_line(rows: list[list[str]], slowly: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    lines = read(text.getvalue(), 2, slowly=slowly).split("\r\n")
    found = [row.replace(LINE_BREAK, "\n") for row in lines[1:-1]]
    expected = [[cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row] for row in rows]
    assert [next(csv.reader(io.StringIO(row, newline=""))) for row in found] == expected


@given(st.text('a,"\n\r', max_size=200))
def test_any_text_keeps_all_its_signs_but_line_breaks(text: str) -> None:
    text = "x,y\n" + text
    for slowly in (False, True):
        found = read(text, 2, slowly=slowly).replace(LINE_BREAK, "\n")
        assert found.replace("\r\n", "\n").replace("\r", "\n") == text.replace("\r\n", "\n").replace(
            "\r", "\n"
        )
    assert read(text, 2) == read(text, 2, slowly=True)


def test_a_stray_quote_joins_no_lines_below_it() -> None:
    text = "x,y\n" + '"1,2\n' + "3,4\n" * 10 + '5,"6"\n' + "7,8\n" * csv_lines._MOST_LINES + '"9,10\n'
    assert read(text, 2) == text
