"""Read columns from names of folders such as ``series_id=007``, as Hive, Spark and Arrow write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

_FOLDER = re.compile(r"([^=]+)=(.*)")
_MISSING = "__HIVE_DEFAULT_PARTITION__"
_TIMES = frozenset({"year", "quarter", "month", "week", "day", "date", "dt", "ds", "hour", "minute", "time"})


def folder_columns(path: Path) -> dict[str, str | None]:
    """Return the columns that a file's folders name, with their values: ``a=1/`` gives ``{"a": "1"}``.

    A value stays text: ``007`` and ``7`` are two series.
    """
    found: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        if match := _FOLDER.fullmatch(part):
            name, value = (unquote(text) for text in match.groups())
            found[name] = None if value == _MISSING else value
    return found


def may_name_series(columns: Iterable[str]) -> list[str]:
    """Return the folder columns that may hold a series id: all except columns with a name such as "date"."""
    return [name for name in columns if name.lower() not in _TIMES]
