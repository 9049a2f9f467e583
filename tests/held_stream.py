"""``python -m tests.held_stream OUTPUT OFFSET``: run a stream that stops reading at an offset and waits.

The stream may change its model. A test kills this process while it waits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sources.base import Step
from tests.logs import LogSource, job_of, small_log

LOG, SCALE = small_log(windows=40, every=8)


@dataclass(frozen=True)
class HeldSource(LogSource):
    """A source that returns no rows from the offset ``held`` on, and does not end."""

    held: int = 0

    def step(self, offset: int) -> Step[int] | None:
        """Return the log's step at ``offset`` if it is below ``held``, and otherwise a step without rows."""
        return Step((), offset, 0.05) if offset >= self.held else super().step(offset)


def job(output: Path) -> StreamJob:
    """Return a stream job over the whole log; a request in its output folder makes it change its model."""
    return replace(job_of(LOG, output, shards=2, windows_per_step=1), follows=True)


if __name__ == "__main__":
    output, held = Path(sys.argv[1]), int(sys.argv[2])
    run_stream(replace(job(output), source=HeldSource(LOG, LOG.stop, held=held)))
