"""Find the kind of a file from its suffix: CSV, Parquet, JSON lines or Excel; text may be compressed."""

from __future__ import annotations

from pathlib import Path

from pipelines.sources.files import compression, excel
from schemas.errors import DataError

KNOWN = "CSV, Parquet, JSON lines or Excel files (.csv, .tsv, .parquet, .jsonl, .xlsx; text may be .gz)"

_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", compression.ZIP: "zip", **dict.fromkeys(excel.SUFFIXES, "excel"),
}  # fmt: skip
_PACKED = frozenset({
    ".gz", ".zst", ".bz2", ".xz", ".lzma", ".lz4", ".br", ".sz", ".snappy", ".z", ".zip", ".7z", ".tar",
    ".tgz", ".rar",
})  # fmt: skip


def is_known(path: Path) -> bool:
    """Return whether the suffix belongs to a kind of file that can be read."""
    return _suffix(path) in _KINDS


def has_numbers_as_text(path: Path) -> bool:
    """Return whether a file is CSV or Excel, in which numbers may be text such as ``1.234,5``."""
    return is_known(path) and kind_of(path) in ("csv", "excel")


def is_plain_text(path: Path) -> bool:
    """Return whether the suffix belongs to a text file that is not compressed."""
    return _KINDS.get(path.suffix.lower()) in ("csv", "jsonl")


def why_unknown(path: Path) -> str | None:
    """Return why a file with this suffix cannot be read; None if it can be read."""
    if is_known(path):
        return None
    last = path.suffix.lower()
    if last in _PACKED:
        return f"compressed in a way that is not known for this kind of file, {last}"
    return f"of no known kind, {last}" if last else "without a suffix"


def is_parquet(path: Path) -> bool:
    """Return whether a path has the suffix of a Parquet file."""
    return _KINDS.get(_suffix(path)) == "parquet"


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = compression.is_packed(path) and _KINDS.get("".join(suffixes[-2:-1])) in ("csv", "jsonl")
    return suffixes[-2] if packed else "".join(suffixes[-1:])


def kind_of(path: Path) -> str:
    """Return the kind of a file: ``csv``, ``parquet``, ``jsonl`` or ``excel``.

    Raises:
        DataError: no file of this kind can be read, or a zip archive holds several files or none to read.
        IsADirectoryError: the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError
    if (why := why_unknown(path)) is not None:
        raise DataError(f"{path}: is {why}; only {KNOWN} can be read")
    kind = _KINDS[_suffix(path)]
    if kind == "zip":
        inside = compression.name_inside(path)
        kind = _KINDS.get(_suffix(Path(inside)), "")
        if kind not in ("csv", "jsonl") or compression.is_packed(Path(inside)):
            raise DataError(f"{path}: holds {inside}, but in a zip archive only CSV and JSON lines are read")
    return kind
