"""Find the files that a job reads under its input paths, and the reasons for leaving out other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import chain
from pathlib import Path

from pipelines.sources.files.file_kinds import KNOWN, why_unknown
from schemas.errors import DataError

HIDDEN = "its name begins with . or _"

_MOST_SHOWN = 3


@dataclass(frozen=True)
class InputFiles:
    """The files that a job reads, and notices about the files that it leaves out.

    Attributes:
        files: the files to read, sorted by folder.
        notices: lines for the user: which files are left out, and why.
    """

    files: list[Path]
    notices: list[str]


def reason_left_out(folder: Path, path: Path) -> str | None:
    """Return why a file below an input folder is not read; None if it is read."""
    if any(part[0] in "._" for part in path.relative_to(folder).parts):
        return HIDDEN
    if path.is_dir():
        return "a link to a folder"
    if not path.is_file():
        return "not a regular file"
    return why_unknown(path)


def find_files(paths: Sequence[str | Path]) -> InputFiles:
    """Return the files to read: each path that is a file, and the files below each path that is a folder.

    A path such as ``data/*/*.csv`` stands for the files and folders that match it, if no file has this name;
    ``**`` matches folders of any depth.

    Below a folder, names that begin with ``.`` or ``_`` and files with unknown suffixes are left out, with a
    notice. A file that is named twice is read once.

    Raises:
        DataError: no paths are given, a path does not exist or matches nothing, or a folder has no file to
            read.
    """
    if not paths:
        raise DataError(f"no input: name files or folders of {KNOWN}")
    found: list[Path] = []
    notices: list[str] = []
    for path in chain.from_iterable(map(_matching, paths)):
        if path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if not p.is_dir() or p.is_symlink()]
            left_out = {p: why for p in below if (why := reason_left_out(path, p)) is not None}
            if len(left_out) == len(below):
                more = f"; {_left_out_line(path, left_out)}" if left_out else ""
                raise DataError(f"{path}: no {KNOWN} in this folder{more}")
            found += [p for p in below if p not in left_out]
            notices += [f"{path}: {_left_out_line(path, left_out)}"] if left_out else []
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    files: dict[Path, Path] = {}
    for path in found:
        if files.setdefault(path.resolve(), path) != path:
            notices.append(f"{path}: is the same file as {files[path.resolve()]} and is read once")
    return InputFiles(list(files.values()), notices)


def _matching(path: str | Path) -> list[Path]:
    """Return only ``path`` if it exists or has no wildcard; otherwise, the sorted paths that match it."""
    if Path(path).exists() or not has_magic(str(path)):
        return [Path(path)]
    if not (found := sorted(glob(str(path), recursive=True))):
        raise DataError(f"{path}: matches no file or folder: correct the pattern")
    return [Path(one) for one in found]


def input_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files at and below input paths, as `find_files` does, but without notices."""
    return find_files(paths).files


def _left_out_line(folder: Path, left_out: dict[Path, str]) -> str:
    count = len(left_out)
    shown = [f"{path.relative_to(folder)} ({why})" for path, why in list(left_out.items())[:_MOST_SHOWN]]
    more = f" and {count - _MOST_SHOWN:,} more" if count > _MOST_SHOWN else ""
    return f"{count:,} {'file is' if count == 1 else 'files are'} left out: {', '.join(shown)}{more}"
