"""Columns that are written as folders, as Hive, Spark and Arrow do: ``series_id=007/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

_FOLDER = re.compile(r"([^=]+)=(.*)")
_MISSING = "__HIVE_DEFAULT_PARTITION__"
_TIMES = frozenset({"year", "quarter", "month", "week", "day", "date", "dt", "ds", "hour", "minute", "time"})


def folder_columns(path: Path) -> dict[str, str | None]:
    """The value of each column that the folders of a file name, as text; None where it is missing.

    The text stays as it is: ``007`` and ``7`` are two series.
    """
    found: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        if match := _FOLDER.fullmatch(part):
            name, value = (unquote(text) for text in match.groups())
            found[name] = None if value == _MISSING else value
    return found


def may_name_series(columns: Iterable[str]) -> list[str]:
    """Those of the folder columns that are no parts of a time: they may say whose values a file holds."""
    return [name for name in columns if name.lower() not in _TIMES]
