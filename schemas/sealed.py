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
    # JSON has only text keys, so `unseal` computes the checksum with text keys. Do it here, too: the checksum
    # depends on the order of the sorted keys, and the numbers 9 and 10 are sorted as 9, 10, but their texts
    # as "10", "9".
    as_read = json.loads(json.dumps(record))
    return json.dumps({**record, _CHECKSUM: _checksum(as_read)})


def unseal(line: str | bytes) -> dict[str, Any]:
    """Return the record of a line that `seal` made.

    Raises:
        ValueError: the line is not a JSON object, or its checksum does not match. The message is a sentence
            about the line, such as "it is cut off or damaged", which callers put after the file's name.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is cut off or damaged") from None
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    found = record.pop(_CHECKSUM, None)
    if found is not None and found != _checksum(record):
        raise ValueError("it is damaged: its checksum does not match")
    return record


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
