"""The names of the files of forecasts, late rows and quarantined rows, and patterns that parse the names."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from urllib.parse import quote

from forecaster.time.windows import MICROSECONDS

# Number of characters after which a partition's name is cut. Most disks allow file names of 255 bytes.
_LONGEST_STEM = 100
_COMPACT = "%Y%m%dT%H%M%SZ"
_TIME = r"\d{8}T\d{6}Z"
_ROW = r"(?P<partition>.+)-(?P<offset>\d{15})"
_SHARD = r"shard-(?P<shard>\d+)-of-(?P<of>\d+)"

BLOCK_FILE: Final = re.compile(
    rf"(?P<first>{_TIME})-(?P<last>{_TIME})-(?P<version>.+?)-r(?P<revision>\d+)(?:-{_ROW})?-{_SHARD}\.(?:parquet|jsonl|csv)"
)
"""The ends of the first and the last window of forecasts, their model version and revision, the late row that
revised them (its partition and its offset), and the shard."""

ROW_FILE: Final = re.compile(rf"{_ROW}-{_SHARD}\.parquet")
"""The partition and the offset of the first row, and the shard."""


def partition_stem(partition: str) -> str:
    """Return the partition's name as the first part of a file name.

    A topic's name may begin with a dot or an underscore. The returned part never does, because readers of
    folders skip such files. A long name is shortened, to leave room for the rest of the file name.
    """
    name = quote(partition, safe="")
    if name.startswith((".", "_")):
        name = f"%{ord(name[0]):X}{name[1:]}"
    if len(name) <= _LONGEST_STEM:
        return name
    return f"{name[:_LONGEST_STEM]}~{sha256(partition.encode()).hexdigest()[:16]}"


def compact_time(us: int) -> str:
    """Format a time in microseconds since 1970 for the names of files: ``20130101T000000Z``."""
    return datetime.fromtimestamp(us / MICROSECONDS, UTC).strftime(_COMPACT)


def parse_compact_time(text: str) -> datetime:
    """Return the time that `compact_time` formatted, in UTC."""
    return datetime.strptime(text, _COMPACT).replace(tzinfo=UTC)
