"""Check files of all kinds and layouts, and read them into raw frames of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.files import formats
from pipelines.sources.files.columns import Layout, listed
from pipelines.sources.files.find_files import input_files
from pipelines.sources.files.opened_file import open_file
from pipelines.sources.files.time_detection import unreadable_times_message
from schemas import cells
from schemas.errors import DataError

__all__ = ["Columns", "FileCheck", "check", "input_files", "read_batches"]


@dataclass(frozen=True)
class FileCheck:
    """The result of a check of a file's column names and first rows.

    Attributes:
        path: the file.
        layout: the columns that are read.
        lacks_zone: whether its times have no time zone, and the job names none.
        unread: the columns of the file that are not read.
        folders: the columns from names of folders that are not read, with their values.
        file_notices: lines about the sheets, the encoding and the times of the file.
    """

    path: Path
    layout: Layout
    lacks_zone: bool
    unread: tuple[str, ...] = ()
    folders: tuple[tuple[str, str | None], ...] = ()
    file_notices: tuple[str, ...] = ()

    @property
    def notices(self) -> list[str]:
        """The notices about the file for the user, without its path."""
        lines = [*self.file_notices, *(["times have no zone, UTC assumed"] if self.lacks_zone else [])]
        unread = [*self.unread, *(f"{name} (of the folder)" for name, _ in self.folders)]
        what = "columns" if len(unread) > 1 else "column"
        return [*lines, f"not read: {what} {listed(unread)}"] if unread else lines


def check(path: Path, columns: Columns | None = None) -> FileCheck:
    """Check the column names and first rows of a file, before a job reads it.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix.
    """
    opened = open_file(path, columns or Columns())
    times, time_format = opened.first_times, opened.columns.time_format
    if cells.given(times).any() and cells.times(times, time_format).is_null().all():
        raise DataError(f"{path}: {unreadable_times_message(times, time_format)}")
    is_detected = time_format != (columns or Columns()).time_format
    detected = [f"times are read with data.time_format = '{time_format}', found from all rows"] * is_detected
    read = set(opened.layout.names)
    return FileCheck(
        path,
        opened.layout,
        not opened.columns.time_zone and cells.lacks_zone(times, time_format),
        tuple(name for name in opened.names if name not in read),
        tuple((name, value) for name, value in opened.folders.items() if name not in read),
        (*formats.notices(path, opened.columns.encoding), *detected),
    )


def read_batches(
    path: Path, columns: Columns | None = None, batch_rows: int = 200_000, skip_rows: int = 0
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file as raw frames; see `OpenedFile.raw_frames`.

    The times are not converted. If they need a format (see `time_detection`), validate them with
    ``open_file(path, columns).columns.time_format``.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix. For an
            incomplete file the error is raised after the frames of the rows before the fault.
    """
    return open_file(path, columns or Columns()).raw_frames(batch_rows, skip_rows)
