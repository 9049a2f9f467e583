"""Test of bad files: with ``data.skip_bad_files``, `load_observations` skips them.

Without this setting, `check_files` raises an error for an empty file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings.config import JobConfig
from pipelines.settings.data_config import DataConfig
from pipelines.sources.files.check_files import check_files
from pipelines.sources.files.load_all import load_observations
from schemas.errors import DataError
from tests.pipelines.sources.logs import write_file

LINE = '{"series_id": "a", "timestamp": "2013-01-01", "value": 5}\n'


def test_loading_with_skip_bad_files_names_the_skipped_files(tmp_path: Path) -> None:
    write_file(tmp_path / "a.csv", [("a", 0, 0), ("a", 1, "x")])
    # `check_files` reads only the first lines of a file, so it does not find the bad last line.
    write_file(tmp_path / "b.jsonl", LINE * 2000 + '{"ser')
    write_file(tmp_path / "c.csv", "")
    data = DataConfig(paths=(str(tmp_path),), skip_bad_files=True, max_quarantined=1)
    read: list[int] = []
    loaded = load_observations(JobConfig(data=data), read.append)
    assert loaded.rows.columns == ["series_id", "timestamp", "value"]
    assert (len(loaded.rows), loaded.quarantined["row"].to_list()) == (1, [2])
    skipped = [line.replace(f"{tmp_path}/", "") for line in loaded.skipped]
    assert skipped == [
        "skipped: b.jsonl: line 2001 is not a JSON object: correct or delete it",
        "skipped: c.csv: is empty",
    ]
    assert sum(read) == 2
    with pytest.raises(DataError, match=r"c\.csv: is empty"):
        check_files(JobConfig(data=data.model_copy(update={"skip_bad_files": None})))
