"""``python -m tests.held_stream OUTPUT OFFSET``: run a stream with a model change, and read up to an offset.

A test kills this process while it waits there.
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
    """A source that has no more rows from the offset ``held`` on, but does not end."""

    held: int = 0

    def step(self, offset: int) -> Step[int] | None:
        """See `Source`."""
        return Step((), offset, 0.05) if offset >= self.held else super().step(offset)


def job(output: Path) -> StreamJob:
    """Return the stream of the whole log, which changes its model if a request is in the output folder."""
    return replace(job_of(LOG, output, shards=2, windows_per_step=1), follows=True)


if __name__ == "__main__":
    output, held = Path(sys.argv[1]), int(sys.argv[2])
    run_stream(replace(job(output), source=HeldSource(LOG, LOG.stop, held=held)))
