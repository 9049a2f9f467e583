"""JSON records with a checksum, so that damage to a stored record is detected.

Records of earlier versions have no checksum and are read without a check.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

_CHECKSUM: Final = "crc32"


def seal(record: Mapping[str, Any]) -> str:
    """Return one line of JSON: a record and its checksum."""
    # JSON turns keys that are numbers into texts. `unseal` computes the checksum with the keys sorted as
    # texts ("10" before "9"). Keys sorted as numbers (9 before 10) would give another checksum, so turn all
    # keys into texts before computing the checksum.
    as_read = json.loads(json.dumps(record))
    return json.dumps({**record, _CHECKSUM: _checksum(as_read)})


def unseal(line: str | bytes) -> dict[str, Any]:
    """Check a line that `seal` wrote, and return its record.

    Raises:
        ValueError: the line is not a JSON object, or its checksum does not match. Callers put
            the message, such as "the record is cut off or damaged", after the name of the file.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the record is cut off or damaged") from None
    if not isinstance(record, dict):
        raise ValueError("the record is not a JSON object")
    found = record.pop(_CHECKSUM, None)
    if found is not None and found != _checksum(record):
        raise ValueError("the record is damaged: its checksum does not match")
    return record


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
