"""Open files for reading; compressed files are decompressed while they are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from schemas.errors import DataError

ZIP = ".zip"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading; a compressed file is decompressed while it is read.

    Raises:
        DataError: a zip archive does not hold exactly one file, or cannot be unpacked.
    """
    how = _OPEN.get(path.suffix.lower())
    return path.open("rb") if how is None else how(path)


def is_packed(path: Path) -> bool:
    """Return whether the suffix belongs to a compressed file that `open_bytes` decompresses."""
    return path.suffix.lower() in _OPEN


def name_inside(path: Path) -> str:
    """Return the name of the only file in a zip archive; folders and hidden files are ignored.

    Raises:
        DataError: the archive does not hold exactly one file.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not _is_hidden(name)]
    if len(names) != 1:
        raise DataError(f"{path}: holds {len(names)} files, not one: unpack it, and name the folder")
    return names[0]


def _is_hidden(name: str) -> bool:
    return name.endswith("/") or any(part[0] in "._" for part in PurePosixPath(name).parts)


def _open_zip(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, zipfile.ZipFile(path).open(name_inside(path)))
    except (RuntimeError, NotImplementedError) as error:  # the archive has a password or an unknown method
        raise DataError(f"{path}: Python cannot unpack it ({error}): unpack it and name the folder") from None


def _open_zstandard(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 16))


_OPEN: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.GzipFile(path)),
    ".xz": lambda path: cast(BinaryIO, lzma.LZMAFile(path)),  # noqa: SIM115 - the caller closes it
    ".bz2": lambda path: cast(BinaryIO, bz2.BZ2File(path)),
    ".zst": _open_zstandard,
    ZIP: _open_zip,
}
