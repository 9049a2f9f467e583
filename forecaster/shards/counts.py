"""Count the rows of a job by their outcome, and sum the errors of its forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import polars as pl

from forecaster.shards.score_sums import Scores, add_scores
from schemas import quarantine

_KINDS = frozenset(quarantine.KINDS)


@dataclass(frozen=True)
class Counts:
    """Exact counts of rows by outcome, of bad files, windows and steps, and sums of forecast errors.

    The shard stores them, so they survive crashes and restarts.

    Attributes:
        rows_in: rows read inside the job's time bounds.
        restored: rows that were pending in the state table from which the job started.
        used: rows that were aggregated into closed windows.
        quarantined: rejected rows by kind of fault (see `schemas.quarantine.KINDS`). A key that is not such a
            kind is counted as "other", so that the text of a cell never becomes a key.
        duplicates: rows of closed windows that were not used, because another row has the same series and
            time, or the same series and event.
        repaired: rows that changed windows that had closed, because they came within ``windows.repair``: late
            rows, and rows in time of an event that had another version. They are counted elsewhere, too.
        replayed: rows of the quarantine that were read again. They are part of the quarantined rows, too,
            unless an earlier job in the same output folder has rejected them.
        replaced: the duplicates that differ from the row that was used, in their value or time.
        late: rows that arrived after their window had closed.
        pending: rows whose window is still open.
        outside: rows outside the job's time bounds, not part of ``rows_in``.
        bad_files: files that could not be read.
        windows: windows in which at least one series was forecast; the maximum over shards.
        series_steps: steps of one series by one window.
        cold_starts: series that began anew after a gap longer than ``windows.max_gap``, up to twice as long.
        scores: sums of the errors of past forecasts, by model version and horizon. Equality of counts leaves
            them out, because forecasts of blocks of different sizes agree only to 1e-5.
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
    repaired: int = 0
    replayed: int = 0
    scores: Scores = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.quarantined.keys() <= _KINDS:
            by_kind_of_fault: dict[str, int] = {}
            for kind, rows in self.quarantined.items():
                kind = kind if kind in _KINDS else quarantine.OTHER
                by_kind_of_fault[kind] = by_kind_of_fault.get(kind, 0) + rows
            object.__setattr__(self, "quarantined", by_kind_of_fault)

    @property
    def rejected(self) -> int:
        """Number of rows that validation rejected."""
        return sum(self.quarantined.values())

    @property
    def in_quarantine(self) -> int:
        """Number of rejected rows, less the rows that quarantine replays have read again; at least 0."""
        return max(self.rejected - self.replayed, 0)

    @property
    def quarantined_share(self) -> float:
        """Rows in quarantine, as a share of ``rows_in``; 0 before the first row."""
        return self.in_quarantine / self.rows_in if self.rows_in else 0.0

    @property
    def missing(self) -> int:
        """Number of rows that were read but are counted under no outcome; it is 0 unless there is a bug."""
        counted = self.used + self.rejected + self.duplicates + self.late + self.pending
        return self.rows_in + self.restored + self.replayed - counted

    def __add__(self, other: Counts) -> Counts:
        """Return the sums of the counts of two shards of one job; ``windows`` is the larger of the two."""
        reasons = {
            reason: self.quarantined.get(reason, 0) + other.quarantined.get(reason, 0)
            for reason in (*self.quarantined, *(r for r in other.quarantined if r not in self.quarantined))
        }
        numbers = {
            place.name: getattr(self, place.name) + getattr(other, place.name)
            for place in fields(Counts)
            if place.name not in ("quarantined", "windows", "scores")
        }
        scores = add_scores(self.scores, other.scores)
        return Counts(quarantined=reasons, windows=max(self.windows, other.windows), scores=scores, **numbers)

    def __sub__(self, earlier: Counts) -> Counts:
        """Return these counts less the counts ``earlier`` of the same job; the result has no scores.

        The number of pending rows may be below 0.
        """
        kinds = {kind: rows - earlier.quarantined.get(kind, 0) for kind, rows in self.quarantined.items()}
        numbers = {
            place.name: getattr(self, place.name) - getattr(earlier, place.name)
            for place in fields(Counts)
            if place.name not in ("quarantined", "scores")
        }
        return Counts(quarantined={kind: rows for kind, rows in kinds.items() if rows}, **numbers)

    def as_json(self) -> dict[str, Any]:
        """Return the counts as a dictionary for ``--json``, with mean errors in place of the sums of errors.

        ``quality`` holds by model version and horizon (``h1``) the number of scored forecasts, and `measures`
        of the sums.
        """
        quality = {
            version: {
                f"h{horizon}": {"scored": sums.scored, **{k: round(v, 6) for k, v in sums.measures().items()}}
                for horizon, sums in sorted(by_horizon.items())
            }
            for version, by_horizon in self.scores.items()
        }
        plain = {name: value for name, value in self.stored().items() if name != "scores"}
        return {**plain, "quality": quality}

    def stored(self) -> dict[str, Any]:
        """Return the counts for a snapshot, without ``repaired`` and ``replayed`` if they are 0."""
        newer = ("repaired", "replayed")
        return {name: value for name, value in asdict(self).items() if name not in newer or value}


def by_kind(rejected: pl.DataFrame) -> dict[str, int]:
    """Count quarantined rows by the kind of their fault."""
    counted = rejected.group_by("kind").len().sort("kind")
    return dict(counted.iter_rows())
