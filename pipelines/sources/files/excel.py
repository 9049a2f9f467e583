"""Read the first sheet of Excel and OpenDocument files, with the package fastexcel (extra ``excel``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.sources.files.csv_header import UNNAMED
from pipelines.sources.files.file_identity import Identity, identity_of
from schemas import arrow
from schemas.errors import DataError

SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")

# If a column has no name, fastexcel calls it by this text, followed by the index of the column.
_UNNAMED = "__UNNAMED__"
_SECOND = re.compile(r"_\d+$")  # if two columns are named ``value``, fastexcel names the second ``value_1``


def first_sheet(path: Path) -> pl.DataFrame:
    """Return the first sheet as a frame; its first row holds the column names.

    A column with cells of one type keeps this type. A column with cells of several types becomes String;
    numbers in it have 10 significant digits.

    Raises:
        DataError: the package fastexcel is not installed, or the file cannot be read.
    """
    return _first_sheet(path, identity_of(path))


def other_sheets(path: Path) -> list[str]:
    """Return the names of all sheets except the first; these sheets are not read.

    Raises:
        DataError: see `first_sheet`.
    """
    with _reading(path):
        return list(_package(path).read_excel(path).sheet_names[1:])


def frames(path: Path, names: list[str], rows: int) -> Iterator[pl.DataFrame]:
    """Yield the columns ``names`` of the first sheet in frames of at most ``rows`` rows."""
    yield from first_sheet(path).select(names).iter_slices(rows)


@lru_cache(maxsize=1)  # a job needs a sheet several times: to check the file, and to get its rows
def _first_sheet(path: Path, identity: Identity | None) -> pl.DataFrame:
    with _reading(path):
        # Find the type of a column from all its cells: with a type from the first cells only,
        # fastexcel would drop later cells of another type.
        reader = _package(path).read_excel(path)
        frame = arrow.frame_of(reader.load_sheet(0, schema_sample_rows=None).to_arrow())
        if any(_SECOND.sub("", name) in frame.columns for name in frame.columns if _SECOND.search(name)):
            _distinct(path, _first_row(reader))
    if not frame.width:
        raise DataError(f"{path}: its first sheet is empty")
    names = [" ".join(name.split()) for name in frame.columns]
    places = {name: int(name.removeprefix(_UNNAMED)) + 1 for name in names if name.startswith(_UNNAMED)}
    named = [f"{UNNAMED}{places[name]})" if name in places else name for name in names]
    frame.columns = _distinct(path, named)
    return frame


def _first_row(reader: Any) -> list[str]:
    """Return the texts of the cells in the first row of the first sheet, without empty cells."""
    row = reader.load_sheet(0, header_row=None, n_rows=1, dtypes="string").to_arrow()
    texts = [column[0].as_py() for column in row.columns]
    return [" ".join(text.split()) for text in texts if text]


def _distinct(path: Path, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}: rename one")
    return names


def _package(path: Path) -> Any:
    try:
        import fastexcel  # imported here because only spreadsheets need this optional package
    except ImportError:
        raise DataError(
            f"{path}: spreadsheets need the package fastexcel: pip install 'statecast[excel]'"
        ) from None
    return fastexcel


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _package(path).FastExcelError as error:
        line = str(error).splitlines()[0][:200]
        raise DataError(f"{path}: is incomplete or not a spreadsheet ({line}): save it again") from None
