"""Where every row of a job went, as exact numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import polars as pl

from schemas import quarantine

_KINDS = frozenset(quarantine.KINDS)
_EARLIER = {
    "is a day or seconds since 1970: write 2013-01-31": "is a number that may be no time",
    "cells other than the header's": "row cannot be read",
    "is no JSON object": "message cannot be decoded",
    "cannot be decoded": "message cannot be decoded",
    "the message is empty (a tombstone)": "message is empty",
}
"""Keys of counts in snapshots of earlier versions, which had no kinds."""


@dataclass(frozen=True)
class Counts:
    """Where every row went, exactly, through kills and restarts: counts are part of the shard.

    Attributes:
        rows_in: rows read inside the job's time bounds.
        restored: rows that waited in the state table that the job started from.
        used: rows that went into closed windows.
        quarantined: rows that are no observations, by kind of fault (see `schemas.quarantine.KINDS`). A key
            that is no such kind is counted as "other", so the text of a cell never becomes a key.
        duplicates: rows in closed windows that did not count, since a later row has their series and time.
        replaced: those of the duplicates that held another value than the row that counts.
        late: rows whose window had closed.
        pending: rows whose window is still open.
        outside: rows outside the job's time bounds, not part of ``rows_in``.
        bad_files: files that could not be read.
        windows: windows from which something was forecast, the most of any shard.
        series_steps: steps of a series by a window.
        cold_starts: series that came back after more than ``windows.max_gap`` windows and began anew.
    """

    rows_in: int = 0
    restored: int = 0
    used: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    late: int = 0
    pending: int = 0
    outside: int = 0
    bad_files: int = 0
    windows: int = 0
    series_steps: int = 0
    cold_starts: int = 0
    replaced: int = 0

    def __post_init__(self) -> None:
        if not self.quarantined.keys() <= _KINDS:
            known: dict[str, int] = {}
            for kind, rows in self.quarantined.items():
                kind = _EARLIER.get(kind, kind)
                kind = kind if kind in _KINDS else quarantine.OTHER
                known[kind] = known.get(kind, 0) + rows
            object.__setattr__(self, "quarantined", known)

    @property
    def rejected(self) -> int:
        """Rows that are no observations."""
        return sum(self.quarantined.values())

    @property
    def quarantined_share(self) -> float:
        """The share of the rows that are no observations; 0 before the first row."""
        return self.rejected / self.rows_in if self.rows_in else 0.0

    @property
    def missing(self) -> int:
        """Rows that went in and are in none of the places; 0 unless something is broken."""
        there = self.used + self.rejected + self.duplicates + self.late + self.pending
        return self.rows_in + self.restored - there

    def __add__(self, other: Counts) -> Counts:
        """The counts of two shards of one job."""
        reasons = {
            reason: self.quarantined.get(reason, 0) + other.quarantined.get(reason, 0)
            for reason in (*self.quarantined, *(r for r in other.quarantined if r not in self.quarantined))
        }
        numbers = {
            place.name: getattr(self, place.name) + getattr(other, place.name)
            for place in fields(Counts)
            if place.name not in ("quarantined", "windows")
        }
        return Counts(quarantined=reasons, windows=max(self.windows, other.windows), **numbers)


def by_kind(rejected: pl.DataFrame) -> dict[str, int]:
    """Count quarantined rows by the kind of their fault."""
    found = rejected.group_by("kind").len().sort("kind")
    return dict(found.iter_rows())
