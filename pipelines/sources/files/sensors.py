"""Refuse files of several sensors if nothing in the files distinguishes their series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.settings.data_config import Columns
from pipelines.sources.files.columns import Layout
from pipelines.sources.files.hive_partitions import may_name_series
from pipelines.sources.files.tables import FileCheck
from schemas.errors import DataError


def refuse_unnamed_series(path: Path, layout: Layout, columns: Columns, others: int | None = None) -> None:
    """Raise DataError if a file has no series name and is not the only such file, unless a layout is set.

    A file has no series name if no column or folder gives its series id, and its only value column has a
    name such as "value". A file of a watched folder never counts as the only such file, because more files
    may be added. A layout is set if ``data.layout`` is long or wide.

    Args:
        path: the file.
        layout: the layout of the file.
        columns: the columns that the job names; with ``data.layout = wide`` all such files are one series.
        others: the number of other such files; None for a watched folder, which may get more files.

    Raises:
        DataError: the file does not name its series; the message names the fix.
    """
    if others == 0 or columns.layout != "auto" or not layout.lacks_series_name:
        return
    more = "more files may be put beside it" if others is None else f"{others:,} more files are like it"
    raise DataError(
        f"{path}: no column names the series of the values, and {more}: add a column series_id, put the "
        "files of each series into a folder such as series_id=NAME, or set data.layout = wide if all of "
        f"them are one series, {layout.values[0]!r}"
    )


def refuse_merged_sensors(files: Sequence[FileCheck], columns: Columns) -> None:
    """Raise DataError if files of several sensors would be read as one series.

    Raises:
        DataError: two sensors would become one series; the message names one of the files and the fix.
    """
    if columns.layout != "auto":
        return
    nameless = [file for file in files if file.layout.lacks_series_name]
    first: dict[str, tuple[FileCheck, dict[str, str | None]]] = {}
    for file in files:
        folders = {name: value for name, value in file.folders if name in may_name_series([name])}
        for series in file.layout.values if file.layout.kind == "wide" else ():
            other, theirs = first.setdefault(series, (file, folders))
            if theirs != folders:
                name = next(n for n in (*folders, *theirs) if folders.get(n) != theirs.get(n))
                raise DataError(
                    f"{file.path} and {other.path} both have a column {series!r}, but their folders "
                    f"give different values of {name}: "
                    f"set data.series_id = {name} if each folder is a series, or "
                    "data.layout = wide if both columns are one series"
                )
    for file in nameless:
        refuse_unnamed_series(file.path, file.layout, columns, len(nameless) - 1)
