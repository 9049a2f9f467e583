"""Tests that compressed text files are read like plain text, and that truncated files give no rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.sources.files import tables
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input, read_files
from schemas.errors import DataError
from tests.pipelines.sources.logs import csv_text, read_log, values, write_file
from tests.pipelines.sources.watched import watch

TEXT = csv_text([("a", hour, hour) for hour in range(3_000)]).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda text: bytes(pa.compress(text, "zstd", asbytes=True)),
}


def packed(path: Path, kind: str) -> Path:
    """Write `TEXT` into a compressed file."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._rows.csv", b"x")
            archive.writestr("rows.csv", TEXT)
    else:
        path.write_bytes(PACK[kind](TEXT))
    return path


@pytest.mark.parametrize("kind", [*PACK, "zip"])
def test_truncated_compressed_files_fail_unless_bad_files_are_skipped(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path / f"rows.csv.{kind}", kind)
    assert sum(len(part.rows) for part in read_files([path], Input(Columns()), 1.8e9, 1 << 20)) == 3_000
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) // 2, 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=rf"rows\.csv\.{kind}: "):
            list(read_files([path], Input(Columns()), 1.8e9, 1 << 20))
        (part,) = read_files([path], Input(Columns(), skip_bad_files=True), 1.8e9, 1 << 20)
        assert (len(part.rows), part.rejected["kind"].to_list()) == (0, ["file cannot be read"])


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.csv", "b.csv"], "holds 2 files, not one: unpack it, and name the folder"),
        (["d/"], "holds 0 files, not one"),
        (["a.parquet"], "holds a.parquet, but in a zip archive only CSV and JSON lines are read"),
    ],
)
def test_a_zip_archive_without_exactly_one_text_file_is_refused(
    tmp_path: Path, names: list[str], reason: str
) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        for name in names:
            archive.writestr(name, TEXT)
    with pytest.raises(DataError, match=reason):
        tables.check(tmp_path / "rows.zip")


@pytest.mark.parametrize("kind", ["zip", "zst"])
def test_a_watched_folder_reads_compressed_files_when_they_are_complete(tmp_path: Path, kind: str) -> None:
    source = watch(tmp_path / "inbox")
    whole = packed(tmp_path / "whole", kind).read_bytes()
    path = write_file(tmp_path / "inbox" / f"rows.csv.{kind}", whole[:-9], age_s=3)
    assert read_log(source) == []
    write_file(path, whole)
    assert values(read_log(source)) == list(range(3_000))


def test_the_first_non_ascii_line_decides_the_encoding(tmp_path: Path) -> None:
    rows = [("a", hour, hour) for hour in range(60_000)]
    for name, series, encoding in (("l.csv", "Köln", "cp1252"), ("u.csv", "Köln", "utf-8")):
        write_file(tmp_path / name, csv_text([*rows, (series, 1, 1)]).encode(encoding))
        parts = list(read_files([tmp_path / name], Input(Columns()), 1.8e9, 1 << 30))
        assert {name for part in parts for name in part.rows["series_id"].unique()} == {"a", "Köln"}
    write_file(tmp_path / "u.csv", csv_text([("Köln", 1, 1)]).encode() + b"K\xf6ln,2013-01-01,1\n")
    with pytest.raises(DataError, match="is not text in UTF-8: save it as UTF-8"):
        list(read_files([tmp_path / "u.csv"], Input(Columns()), 1.8e9, 1 << 20))


def test_a_zip_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "rows.zip", "zip")
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 4):  # set the flag "encrypted" of every file in the archive
        if bytes(content[place : place + 4]) in (b"PK\x01\x02", b"PK\x03\x04"):
            content[place + (8 if content[place + 2] == 1 else 6)] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.zip: Python cannot unpack it \(File .* is encrypted"):
        tables.check(path)
