"""Check a job's files before the job begins: their columns, and whether they would mix several sensors."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from pipelines.settings.config import JobConfig
from pipelines.sources.files import tables
from pipelines.sources.files.find_files import find_files
from pipelines.sources.files.overlaps import refuse_clashes
from pipelines.sources.files.sensors import refuse_merged_sensors
from pipelines.sources.files.validated_rows import columns_of, input_of, rows_of
from schemas.errors import DataError


def check_files(job: JobConfig) -> tuple[list[Path], list[str]]:
    """Check the input files of a job; return the paths of all input files, and notices for the user.

    Raises:
        DataError: a file cannot be read, or no layout fits its columns (unless ``data.skip_bad_files`` is
            set). Also if no file at all can be read, or if files of several sensors would be read as one
            series.
    """
    found, columns = find_files(job.data.paths), columns_of(job)
    checked, bad = [], 0
    for file in found.files:
        try:
            checked.append(tables.check(file, columns))
        except DataError:  # if bad files are skipped, the job reports this error later
            if not job.data.skip_bad_files:
                raise
            bad += 1
    if bad == len(found.files):
        raise DataError("no file is left to read: all files are bad, and bad files are skipped")
    refuse_merged_sensors(checked, columns)
    how = input_of(job)
    read = partial(rows_of, how=how, now_s=time.time())
    refuse_clashes(checked, columns, read, job.data.memory_mb << 20, skip_bad_files=how.skip_bad_files)
    return found.files, [*found.notices, *_notices(checked)]


def _notices(files: list[tables.FileCheck]) -> list[str]:
    """Return each notice once, with the first file that it is about and the number of other such files."""
    of: dict[str, list[Path]] = {}
    for file in files:
        for line in file.notices:
            of.setdefault(line, []).append(file.path)
    lines = []
    for line, paths in of.items():
        more = len(paths) - 1
        others = f" (and those of {more:,} more {'file' if more == 1 else 'files'})" if more else ""
        lines.append(f"{paths[0]}: {line}{others}")
    return lines
