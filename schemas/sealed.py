"""Records of JSON with a checksum: what must be found again exactly as it was written.

A record without a checksum, from an earlier version, is read as it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

_CHECKSUM: Final = "crc32"


def seal(record: Mapping[str, Any]) -> str:
    """Return one line of JSON: a record and its checksum."""
    return json.dumps({**record, _CHECKSUM: _checksum(record)})


def unseal(line: str | bytes) -> dict[str, Any]:
    """Return the record of a line that `seal` made.

    Raises:
        ValueError: the line is no JSON object, or its checksum is that of another one; the text says which.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is cut off or damaged") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    found = record.pop(_CHECKSUM, None)
    if found is not None and found != _checksum(record):
        raise ValueError("it is damaged: its checksum does not match")
    return record


def _checksum(record: Mapping[str, Any]) -> int:
    # As it is read back: keys are text then, and tuples lists.
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
