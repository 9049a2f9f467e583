"""Read CSV, Parquet, JSON lines and Excel files: their columns, and their rows in batches of bounded size."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.sources.files import compression, excel, json_lines
from pipelines.sources.files.csv_header import Header, read_header
from pipelines.sources.files.csv_lines import RowPerLine
from pipelines.sources.files.encodings import as_utf8, needs_windows
from pipelines.sources.files.file_identity import Identity, identity_of
from pipelines.sources.files.file_kinds import is_parquet, kind_of
from schemas import arrow
from schemas.errors import DataError

# Names of columns that `batches` adds. A zero byte makes them differ from all column names in files.
ROW, PROBLEM = "\0row", "\0problem"

_NO_UTF8 = "is not text in UTF-8: save it as UTF-8, or set data.encoding, such as 'cp1252' for files of Excel"

Frames = Generator[pl.DataFrame, None, None]

_PACKED_NAMES = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstandard", ".zip": "zip"}
_PACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile)


def column_names(path: Path, encoding: str = "auto") -> list[str]:
    """Return the column names of a file; for JSON lines, only the keys in the first lines of the file.

    In CSV and Excel, the third column is called ``(unnamed 3)`` if it has no name. `late_keys` returns the
    other keys of a JSON lines file.
    """
    kind = kind_of(path)
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")
    if kind == "parquet":
        return list(pq.read_schema(path).names)
    if kind == "excel":
        return excel.first_sheet(path).columns
    if kind == "csv":
        return list(_header(path, identity_of(path), encoding).names)
    with _opened_lines(path, encoding) as file:
        return json_lines.first_keys(path, file)


def late_keys(path: Path, known: Sequence[str], encoding: str = "auto") -> list[str]:
    """Return the keys that occur in a JSON lines file but not in ``known``; [] for other kinds of file."""
    if kind_of(path) != "jsonl":
        return []
    with _opened_lines(path, encoding) as file:
        return [key for key in json_lines.all_keys(file) if key not in known]


def notices(path: Path, encoding: str = "auto") -> list[str]:
    """Return notices for the user about sheets that are not read, and about the encoding of a file."""
    kind = kind_of(path)
    if kind == "excel":
        others = excel.other_sheets(path)
        noun = "sheet" if len(others) == 1 else "sheets"
        return [f"not read: {noun} {', '.join(others[:8])}"] if others else []
    if kind == "parquet" or encoding != "auto":
        return []
    with convert_read_errors(path), compression.open_bytes(path) as file:
        is_windows = needs_windows(file)
    line = "is not UTF-8, read as Windows-1252 (Latin-1): set data.encoding if it is another"
    return [line] if is_windows else []


def index_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a Parquet file in which pandas stored the index of a data frame."""
    if not is_parquet(path):
        return ()
    written = (pq.read_schema(path).metadata or {}).get(b"pandas")
    try:
        columns = json.loads(written)["index_columns"] if written else []
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(name for name in columns if isinstance(name, str))


def batches(path: Path, names: Sequence[str], rows: int, encoding: str = "auto") -> Frames:
    """Yield the rows of a file in frames of at most ``rows`` rows, with the named columns and row numbers.

    ``ROW`` (Int64) counts the data rows of the file from 1. Columns of CSV and JSON lines files are String;
    columns of Parquet files have the file's types. A frame with rows that cannot be split into cells
    also has ``PROBLEM`` (String), the reason; the cells of such rows are null.
    """
    kind = kind_of(path)
    if kind == "parquet":
        return _parquet(path, list(names), rows)
    if kind == "excel":
        return _numbered_frames(excel.frames(path, list(names), rows))
    return (_csv if kind == "csv" else _json_lines)(path, list(names), rows, encoding)


def first_rows(path: Path, names: Sequence[str], rows: int, encoding: str = "auto") -> pl.DataFrame:
    """Return the first frame of `batches`.

    If the file has no rows, return an empty frame with the named columns and without the column `ROW`.
    """
    if kind_of(path) == "csv":
        frames = _csv(path, list(names), rows, encoding, only_first=True)
    else:
        frames = batches(path, names, rows, encoding)
    first = next(frames, None)
    return pl.DataFrame(schema=dict.fromkeys(names, pl.String)) if first is None else first


@contextmanager
def convert_read_errors(path: Path) -> Iterator[None]:
    """Convert errors of reading a file to a ``DataError`` of one line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except _PACKING_ERRORS as error:
        kind = _PACKED_NAMES.get(path.suffix.lower(), "compressed")
        raise DataError(f"{path}: is incomplete or not a {kind} file ({error}): fetch it again") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: {_NO_UTF8}") from None
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{path}: {_arrow_problem(path, str(error))}") from None
    except OSError as error:
        what = error.strerror or " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({what})") from None


def _opened(path: Path, encoding: str) -> BinaryIO:
    return as_utf8(compression.open_bytes(path), encoding)


def _arrow_problem(path: Path, message: str) -> str:
    line = " ".join(message.split())[:200]
    if is_parquet(path):
        return f"is incomplete or not a Parquet file ({line}): write it again"
    if "UTF8" in line:
        return _NO_UTF8
    return f"cannot be read as rows ({line})"


def _opened_lines(path: Path, encoding: str) -> BinaryIO:
    """Open a text file to read it line by line; its bytes are converted from ``encoding`` to UTF-8."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, _opened(path, encoding)), 1 << 20))


@lru_cache(maxsize=8)  # three reads of a file need its header: column names, first rows, all rows
def _header(path: Path, identity: Identity | None, encoding: str) -> Header:
    """Return the header of a CSV file, cached by ``identity``, which changes with the file."""
    with _opened(path, encoding) as file:
        return read_header(path, file)


def _csv(path: Path, names: list[str], rows: int, encoding: str, only_first: bool = False) -> Frames:
    """Yield the rows of a CSV file as `batches` does; if ``only_first``, stop after about one block."""
    header, delimiter, lines, size = _header(path, identity_of(path), encoding)
    # pyarrow reads a file in blocks of bytes, and each block must be large enough for at least one row.
    block_size = max(min(max(rows * 32, 1 << 20), 32 << 20), 8 * size, 256 * len(header))
    broken: dict[int, str] = {}

    def skip(row: pacsv.InvalidRow) -> str:
        whole = text.restore(row.text)
        shown = whole if len(whole) <= 60 else whole[:57] + "..."
        problem = f"{row.actual_columns} cells where the header has {row.expected_columns}"
        if text.has_stray_quote(row.text):
            problem = "a quoted cell that does not end"
        broken[row.number - lines] = f"{problem}: {shown}"
        return "skip"

    with _opened(path, encoding) as file:
        text = RowPerLine(file, lines, delimiter, len(header))
        reader = pacsv.open_csv(
            # Arrow reads up to 32 blocks ahead, so for the first rows give it only about one block.
            io.BytesIO(text.first_rows(block_size)) if only_first else text,
            # Use one thread: with several threads, pyarrow does not report the numbers of skipped rows.
            read_options=pacsv.ReadOptions(
                use_threads=False, block_size=block_size, column_names=header, skip_rows=lines
            ),
            # Cells contain no line breaks, because `RowPerLine` has replaced them.
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=skip, newlines_in_values=False
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), include_columns=names,
                strings_can_be_null=False,
            ),
        )  # fmt: skip
        row = 0
        for block in reader:
            frame = cast(pl.DataFrame, pl.from_arrow(block))
            numbered = _numbered(text.restore_cells(frame), row, broken)
            row = int(cast(int, numbered[ROW].max() or row))
            yield from numbered.iter_slices(rows)
        if broken:
            empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
            yield from _numbered(empty, row, broken).iter_slices(rows)


def _numbered(frame: pl.DataFrame, row: int, broken: dict[int, str]) -> pl.DataFrame:
    """Return a block's rows, and the broken rows among and directly after them, in order with row numbers.

    Args:
        frame: the rows of the block that could be split into cells.
        row: the number of the last row before the block.
        broken: by row number, the problems of broken rows, perhaps also of later blocks; the entries of this
            block are removed.
    """
    among: dict[int, str] = {}
    end = row + frame.height
    for number in sorted(broken):
        # ``frame`` lacks the broken rows, so the block ends one row later for each broken row inside it.
        # A broken row directly after the last row of the block is added to this block.
        if frame.height and number > end + 1:
            break
        among[number] = broken.pop(number)
        end += 1
    taken = pl.Series(list(among), dtype=pl.Int64)
    numbers = pl.int_range(row + 1, end + 1, eager=True)
    out = frame.with_columns(
        (numbers.filter(~numbers.is_in(taken.implode())) if among else numbers).alias(ROW)
    )
    if not among:
        return out
    added = pl.DataFrame({ROW: taken, PROBLEM: pl.Series(list(among.values()), dtype=pl.String)})
    return pl.concat([out, added], how="diagonal").sort(ROW)


def _parquet(path: Path, names: list[str], rows: int) -> Frames:
    row = 0
    # Read INT96 times as microseconds: int64 nanoseconds cannot hold times before 1678 or after 2261.
    with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
        for field in file.schema_arrow:
            if field.name in names and arrow.is_unreadable(field.type):
                what = f"column {field.name!r} is {field.type}, which cannot be read from Parquet"
                raise DataError(f"{path}: {what}: write it as a list without a fixed size")
        for batch in file.iter_batches(batch_size=rows, columns=names):
            frame = arrow.frame_of(batch)[names]
            yield _with_row_numbers(frame, row)
            row += frame.height


def _json_lines(path: Path, names: list[str], rows: int, encoding: str) -> Frames:
    with _opened_lines(path, encoding) as file:
        yield from _numbered_frames(json_lines.frames(path, file, names, rows))


def _numbered_frames(frames: Iterator[pl.DataFrame]) -> Frames:
    row = 0
    for frame in frames:
        yield _with_row_numbers(frame, row)
        row += frame.height


def _with_row_numbers(frame: pl.DataFrame, before: int) -> pl.DataFrame:
    """Return the frame with the column `ROW`; ``before`` is the number of rows of the file before it."""
    return frame.hstack([pl.int_range(before + 1, before + frame.height + 1, eager=True).alias(ROW)])
