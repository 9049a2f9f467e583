"""Files of several sensors are never read as one series: where nothing tells them apart, they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.settings.config import Columns
from pipelines.sources.files.columns import Layout
from pipelines.sources.files.hive_partitions import may_name_series
from pipelines.sources.files.tables import FileCheck
from schemas.errors import DataError


def refuse_nameless(path: Path, layout: Layout, columns: Columns, others: int | None = None) -> None:
    """Refuses a file beside others that are read into one job where nothing says whose values it holds.

    Args:
        path: the file.
        layout: its columns.
        columns: as the job names them; with ``data.layout = wide`` it says that all are one series.
        others: how many more files are like it; None for a folder that more files are put into.

    Raises:
        DataError: the file is such a one; one line with the fix.
    """
    if others == 0 or columns.layout != "auto" or not layout.is_nameless:
        return
    more = "more files are put beside it" if others is None else f"{others:,} more files are like it"
    raise DataError(
        f"{path}: no column says whose values these are, and {more}: add a column series_id, put the "
        "files of each series into a folder such as series_id=NAME, or write data.layout = wide where all of "
        f"them are one series, {layout.values[0]!r}"
    )


def refuse_poured(files: Sequence[FileCheck], columns: Columns) -> None:
    """Refuses files of several sensors that would be read as one series.

    Raises:
        DataError: there are such files; one line with the fix.
    """
    if columns.layout != "auto":
        return
    nameless = [file for file in files if file.layout.is_nameless]
    first: dict[str, tuple[FileCheck, dict[str, str | None]]] = {}
    for file in files:
        folders = {name: value for name, value in file.folders if name in may_name_series([name])}
        for series in file.layout.values if file.layout.kind == "wide" else ():
            other, theirs = first.setdefault(series, (file, folders))
            if theirs != folders:
                name = next(n for n in (*folders, *theirs) if folders.get(n) != theirs.get(n))
                raise DataError(
                    f"{file.path}: has a column {series!r} as {other.path} has, in another folder {name}=: "
                    f"write data.series_id = {name} where the folder is the series, or data.layout = wide "
                    "where both columns are one series"
                )
    for file in nameless:
        refuse_nameless(file.path, file.layout, columns, len(nameless) - 1)
