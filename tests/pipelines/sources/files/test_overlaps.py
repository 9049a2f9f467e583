"""Test that wide files are refused if their values of one series at one time differ.

This also holds if the compared values exceed the memory limit.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pipelines.sources.files.opened_file import open_file
from pipelines.sources.files.overlaps import refuse_sensors, wide_file
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input, rows_of
from schemas.errors import DataError


def test_contradictory_wide_files_are_refused_even_with_little_memory(tmp_path: Path) -> None:
    columns, how = Columns(), Input(Columns())
    text = "time,temp\n" + "".join(f"2023-01-{1 + h // 24:02}T{h % 24:02}:00Z,{h}\n" for h in range(400))
    paths = [tmp_path / f"{i}.csv" for i in range(2)]
    for path in paths:
        path.write_text(text)

    def refuse() -> None:
        wide = [wide_file(path, open_file(path, columns).layout, columns) for path in paths]
        refuse_sensors([file for file in wide if file], partial(rows_of, how=how, now_s=2e9), 4_000)

    refuse()
    paths[1].write_text(text.replace(",200\n", ",99\n"))
    with pytest.raises(DataError, match="99 at 2023-01-09T08"):
        refuse()
