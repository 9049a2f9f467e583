"""Counters that Beam shows on the page of an engine and returns in the result of a pipeline.

The counters are in the namespace ``statecast``. A bundle that fails and runs again counts once, because Beam
adds up the counters of finished bundles only.
"""

from __future__ import annotations

from typing import Final

from apache_beam.metrics.metric import Metrics

from forecaster.shards.counts import Counts

NAMESPACE: Final = "statecast"


class RowMetrics:
    """The counters of rows, windows and forecasts.

    ``rows_used`` are the rows in closed windows, ``rows_quarantined`` the rejected rows, ``rows_late`` the
    rows whose window had closed. ``windows_closed`` counts a window once for each shard that issues forecasts
    at its end, and ``forecasts`` counts each series at each issue time.
    """

    def __init__(self) -> None:
        self.used = Metrics.counter(NAMESPACE, "rows_used")
        self.quarantined = Metrics.counter(NAMESPACE, "rows_quarantined")
        self.late = Metrics.counter(NAMESPACE, "rows_late")
        self.windows = Metrics.counter(NAMESPACE, "windows_closed")
        self.forecasts = Metrics.counter(NAMESPACE, "forecasts")

    def add(self, before: Counts, after: Counts) -> None:
        """Add the increase of a shard's counts, from ``before`` to ``after``, to the counters.

        Call this only in a method of a DoFn, because Beam finds the counters of a bundle by the thread that
        runs the bundle.
        """
        for counter, difference in (
            (self.used, after.used - before.used),
            (self.quarantined, after.rejected - before.rejected),
            (self.late, after.late - before.late),
            (self.windows, after.windows - before.windows),
            (self.forecasts, after.series_steps - before.series_steps),
        ):
            if difference:
                counter.inc(difference)
