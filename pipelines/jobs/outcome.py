"""What a job did with its rows, and how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipelines.sinks.files import CLOSINGS
from schemas import errors
from schemas.errors import EngineError, StatecastError

_OURS = re.compile(r"schemas\.errors\.(\w+): (.+?)(?: \[while running|\\n|\n|$)")


@dataclass(frozen=True)
class Counts:
    """Where every row went.

    Attributes:
        rows_in: rows read inside the job's time bounds.
        restored: rows that the state table held back from the job before.
        used: rows that went into closed windows.
        quarantined: rows that are no observations.
        duplicates: copies of rows in closed windows.
        too_late: rows whose window had closed.
        pending: rows whose window is still open; they are in the state table.
        outside: rows outside the job's time bounds, not part of ``rows_in``.
        bad_files: files that were skipped.
        series_steps: steps of a series by a window.
    """

    rows_in: int = 0
    restored: int = 0
    used: int = 0
    quarantined: int = 0
    duplicates: int = 0
    too_late: int = 0
    pending: int = 0
    outside: int = 0
    bad_files: int = 0
    series_steps: int = 0

    @property
    def missing(self) -> int:
        """Rows that went in and are in none of the places; 0 unless something is broken."""
        there = self.used + self.quarantined + self.duplicates + self.too_late + self.pending
        return self.rows_in + self.restored - there

    @staticmethod
    def of(tally: Mapping[str, int]) -> Counts:
        """The counts of a job that has ended (see `pipelines.sinks.metrics`)."""
        return Counts(**{place.name: tally.get(place.name, 0) for place in fields(Counts)})


@dataclass(frozen=True)
class Outcome:
    """A job that has ended.

    Attributes:
        counts: where the rows went.
        seconds: wall clock of the whole job.
        output: its output folder.
        stopped: it was asked to stop, and its source may have more.
        latency_ms: of each closing of windows on each shard, from the moment it was possible to the file;
            empty for an unpaced replay, which only works off a backlog.
    """

    counts: Counts
    seconds: float
    output: Path
    stopped: bool = False
    latency_ms: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        quantiles = (
            {f"p{p}_ms": self.latency_quantile_ms(p / 100) for p in (50, 99)} if self.latency_ms else {}
        )
        return {
            "output": str(self.output),
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            **asdict(self.counts),
            "missing": self.counts.missing,
            **quantiles,
        }

    def latency_quantile_ms(self, level: float) -> float:
        """The latency that a share ``level`` of closings stayed at or under; NaN where none was measured."""
        ordered = sorted(self.latency_ms)
        return ordered[min(int(level * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@dataclass
class Closings:
    """The growing log of closings under an output folder, from where it stood when this was made."""

    folder: Path
    offset: int = field(init=False)

    def __post_init__(self) -> None:
        path = self.folder / CLOSINGS
        self.offset = path.stat().st_size if path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """The lines written since the last call."""
        path = self.folder / CLOSINGS
        if not path.exists():
            return []
        with path.open("rb") as log:
            log.seek(self.offset)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def told(error: BaseException) -> StatecastError:
    """The one line behind what a runner raised: our own if a worker raised one of ours, else its last."""
    if isinstance(error, StatecastError):
        return error
    text = str(error)
    if found := _OURS.search(text):
        kind = getattr(errors, found[1], StatecastError)
        ours: StatecastError = kind(found[2].strip())
        return ours
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return EngineError(f"the pipeline failed: {lines[-1] if lines else type(error).__name__}")
