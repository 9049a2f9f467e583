"""Count rows and forecasts in Beam's counters, which an engine shows and a pipeline's result contains.

The counters are in the namespace ``statecast``. Beam adds up the counters of finished bundles only, so a
bundle that fails and runs again counts once.
"""

from __future__ import annotations

from typing import Final

from apache_beam.metrics.metric import Metrics

from forecaster.shards.counts import Counts
from pipelines.sinks.counters import ROWS_BY_OUTCOME, TOTALS

NAMESPACE: Final = "statecast"

# A step of a series issues one forecast, so Beam's counter of these steps is named "forecasts".
_NAMES: Final = {"series_steps": "forecasts"}
_VALUES: Final = {
    **{f"rows_{outcome}": value for outcome, value in ROWS_BY_OUTCOME.items()},
    **{_NAMES.get(name, name): value for name, (_, value) in TOTALS.items()},
}


class RowMetrics:
    """Adds the counts of rows, windows and forecasts of shards to counters that Beam shows.

    ``windows_closed`` counts a window once for each shard that issues forecasts at its end.
    """

    def __init__(self) -> None:
        self._counters = {name: Metrics.counter(NAMESPACE, name) for name in _VALUES}

    def add(self, before: Counts, after: Counts) -> None:
        """Add the difference between a shard's counts ``before`` and ``after`` to Beam's counters.

        Call this only in a method of a DoFn: Beam finds the counters of a bundle by its thread.
        """
        for name, value in _VALUES.items():
            if difference := value(after) - value(before):
                self._counters[name].inc(difference)
