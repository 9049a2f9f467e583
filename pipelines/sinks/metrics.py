"""The job's accounting while it runs: Beam's metrics for those who watch a runner, and an exact tally.

Prism's metrics are not exact (2.77.0): where two bundles are the first to report a metric at the same moment,
it keeps the number of one (``unprocessedPayloads`` in its ``metrics.go``; seen in one stream of five). Both
jobs run their workers in this process, so they are counted here as well.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from apache_beam.metrics.metric import Metrics

_adding = threading.Lock()
_tallies: dict[str, Counter[str]] = {}
_job: ContextVar[str] = ContextVar("job", default="")


@dataclass(frozen=True)
class Count:
    """A counter that travels with a DoFn; ``job`` says whose tally it adds to, if that is in this process."""

    name: str
    job: str
    metric: Any

    def inc(self, n: int = 1) -> None:
        """Adds ``n`` to the metric and to the tally."""
        self.metric.inc(n)
        tally = _tallies.get(self.job)
        if tally is not None:
            with _adding:
                tally[self.name] += n


def counter(name: str) -> Count:
    """A counter of the job whose pipeline is being built (see `tallied`); of none, it is a metric alone."""
    return Count(name, _job.get(), Metrics.counter("statecast", name))


@contextmanager
def tallied() -> Iterator[Counter[str]]:
    """The tally of a job: of the pipeline that is built inside, and runs in this process."""
    job = uuid4().hex
    tally = _tallies[job] = Counter()
    token = _job.set(job)
    try:
        yield tally
    finally:
        _job.reset(token)
        del _tallies[job]
