"""Tests of files of JSON lines: their keys, and the line number of a broken line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipelines.sources.files.json_lines import all_keys, first_keys
from schemas.errors import DataError

PATH = Path("in.jsonl")


def test_all_keys_finds_keys_after_thousands_of_blank_lines() -> None:
    assert all_keys(io.BytesIO(b'{"a":1}\n' + b"\n" * 30_000 + b'{"late":1}\n')) == ["a", "late"]


def test_first_keys_finds_keys_after_thousands_of_blank_lines() -> None:
    assert first_keys(PATH, io.BytesIO(b"\n" * 3_000 + b'{"a":1}\n')) == ["a"]


def test_the_error_of_a_broken_line_counts_the_blank_lines_before() -> None:
    with pytest.raises(DataError, match=r"in\.jsonl: line 4 is not a JSON object"):
        first_keys(PATH, io.BytesIO(b'{"a":1}\n\n\n{"a":\n'))
