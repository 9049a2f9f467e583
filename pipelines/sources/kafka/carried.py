"""How far other partitions carried the time of one that was idle: written down before anybody acts on it.

When a partition is idle depends on clocks, and a re-read would not find the same. So each such decision is a
line on disk, as part of the log: from this offset on the partition's watermark was so far.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.lateness import NEVER
from pipelines.storage import Journal, Location
from schemas.errors import DataError, OutputError

_LONGEST = 10_000  # lines; of one offset only the last counts, so a longer file is written anew

Offsets = NDArray[np.int64]


class Carried:
    """The decisions of a job so far.

    Args:
        path: the file; it need not be there yet.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self._by: dict[str, tuple[list[int], list[int]]] = {}  # offsets rising, watermarks rising
        self._lines = 0
        try:
            self._journal = Journal(path)  # a line that broke off was acted on by nobody
            for number, record in self._journal.records():
                self._take(*_decision(record, number))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}): put it back as it was") from None
        if self._lines > _LONGEST:
            self._write_anew()

    def add(self, partition: str, offset: int, watermark_us: int) -> None:
        """Before the row at ``offset``, the watermark of ``partition`` is ``watermark_us`` at least.

        Raises:
            OutputError: it cannot be written down.
        """
        try:
            self._journal.add(_record(partition, offset, watermark_us))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._take(partition, offset, watermark_us)

    def before(self, partition: str) -> Callable[[Offsets], Offsets]:
        """For offsets ``[n]`` how far the watermark was carried before each; `NEVER` if it was not."""
        offsets, carried = self._by.get(partition, ([], []))
        values = np.array([NEVER, *carried], np.int64)
        at = np.array(offsets, np.int64)
        return lambda asked: values[np.searchsorted(at, asked, side="right")]

    def at(self, partition: str, offset: int, watermark_us: int | None) -> int | None:
        """The watermark before the row at ``offset``, where without this it were ``watermark_us``."""
        us = int(self.before(partition)(np.array([offset], np.int64))[0])
        if us == NEVER:
            return watermark_us
        return us if watermark_us is None else max(us, watermark_us)

    def _take(self, partition: str, offset: int, watermark_us: int) -> None:
        self._lines += 1
        offsets, carried = self._by.setdefault(partition, ([], []))
        place = bisect_right(offsets, offset)
        if place and offsets[place - 1] == offset:
            carried[place - 1] = max(carried[place - 1], watermark_us)
        else:
            offsets.insert(place, offset)
            carried.insert(place, watermark_us)
        for later in range(max(place, 1), len(carried)):
            carried[later] = max(carried[later], carried[later - 1])

    def _write_anew(self) -> None:
        records = [
            _record(name, offset, us)
            for name, (offsets, carried) in self._by.items()
            for offset, us in zip(offsets, carried, strict=True)
        ]
        try:
            self._journal.replace(records)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._lines = len(records)


def _record(partition: str, offset: int, watermark_us: int) -> dict[str, Any]:
    return {"partition": partition, "offset": offset, "watermark_us": watermark_us}


def _decision(record: dict[str, Any], number: int) -> tuple[str, int, int]:
    match record:
        case {"partition": str(partition), "offset": int(offset), "watermark_us": int(us)}:
            return partition, offset, us
    raise ValueError(f"line {number}: it is no decision of a topic")
