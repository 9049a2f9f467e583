"""Functions that make damaged copies of files: flipped bits, truncated files, wrong JSON records."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from schemas.errors import StatecastError

T = TypeVar("T")


def line_of(read: Callable[[], T], found: list[T]) -> str | None:
    """Call ``read``, and return the text of the `StatecastError` that it raises.

    Without an error, add the result to ``found`` and return None.
    """
    try:
        found.append(read())
    except StatecastError as error:
        return str(error)
    return None


def flipped(whole: bytes, chance: random.Random, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``count`` pairs: the index of a byte, and a copy of the file with one bit of the byte flipped."""
    for _ in range(count):
        place = chance.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        yield place, bytes(changed)


def torn(whole: bytes) -> Iterator[bytes]:
    """Yield copies of a file cut off at several lengths, and a copy whose second half is zeros."""
    for size in sorted({0, 1, len(whole) // 2, max(len(whole) - 2, 0)}):
        yield whole[:size]
    yield whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)


def mistyped(record: Any) -> Iterator[Any]:
    """Yield copies of a JSON record with one wrong value, missing key or unknown key, at any depth."""
    others: list[Any] = [None, [], {}, "text", True, 1.5, -1]
    for other in others:
        if type(other) is not type(record) or other == -1:
            yield other
    if isinstance(record, dict):
        yield {**record, "unknown": 1}
        for key, value in record.items():
            yield {name: one for name, one in record.items() if name != key}
            for other in mistyped(value):
                yield {**record, key: other}
    if isinstance(record, list):
        for place, value in enumerate(record):
            for other in mistyped(value):
                yield [*record[:place], other, *record[place + 1 :]]


def as_json(record: Any) -> bytes:
    return json.dumps(record).encode()
