"""What the life of a model cost the stream: lost and late windows, latencies, and the versions in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.sinks.files import read_forecasts
from pipelines.sinks.latency import Histogram
from tests.lifecycle import inputs
from tests.lifecycle.processes import difference


@dataclass(frozen=True)
class Outcome:
    """The figures of the life; None for what could not be measured.

    Attributes:
        windows_lost: closed windows of a series without a forecast.
        windows_late: rows that the stream counted as late.
        swap_delay_ms_max: longest delay of a window around a change of the version in the stream.
        p99_ms_before, p99_ms_during: p99 of the latency of batches before the retraining, and from its begin
            until some days after the alias has moved.
        rewarm_difference: largest difference between a forecast after a change of the version and that of a
            state that always had the new version, in units of the scale of the series.
        champion_versions: versions that the champion pointed to, in order.
        stream_versions: model versions of the stream's forecasts, in order.
        refused: versions that were refused, at the gate or by the stream.
        follows: whether the stream follows the alias.
    """

    windows_lost: int
    windows_late: int
    swap_delay_ms_max: float | None
    p99_ms_before: float | None
    p99_ms_during: float | None
    rewarm_difference: float | None
    champion_versions: list[str]
    stream_versions: list[str]
    refused: list[str]
    follows: bool

    def as_json(self) -> dict[str, Any]:
        """Return the object that the run prints last."""
        return asdict(self)

    @property
    def is_good(self) -> bool:
        """Whether no window was lost or late, the alias moved as planned, and C was refused."""
        alias_is_right = self.champion_versions == ["fleet/1", "fleet/2", "fleet/1"]
        versions = 2 if self.follows else 1
        return (
            not self.windows_lost
            and not self.windows_late
            and alias_is_right
            and self.refused[:1] == ["fleet/3"]
            and len(set(self.stream_versions)) == versions
        )


def measure(
    output: Path,
    days: int,
    ended: dict[str, Any],
    before: Histogram,
    during: Histogram,
    champion_versions: list[str],
    refused: list[str],
    follows: bool,
) -> Outcome:
    """Return the figures of a stream that has ended.

    Args:
        output: output folder of the stream.
        days: number of days that the stream has read, history included.
        ended: JSON object of the stream.
        before: latencies until the retraining.
        during: latencies until some days after the alias has moved.
        champion_versions: versions that the champion pointed to, in order.
        refused: versions that were refused.
        follows: whether the stream follows the alias.
    """
    forecasts = read_forecasts(output)
    # The last window stays open, because no later row has closed it.
    expected = ((days - inputs.HISTORY_DAYS) * 24 - 1) * inputs.SERIES
    found = forecasts.select("series_id", "issued_at").unique()
    versions = forecasts.sort("issued_at").select(pl.col("model_version").rle()).unnest("model_version")
    return Outcome(
        windows_lost=expected - len(found),
        windows_late=int(ended["late"]),
        swap_delay_ms_max=None,
        p99_ms_before=_p99(before),
        p99_ms_during=_p99(difference(during, before)),
        rewarm_difference=None,
        champion_versions=champion_versions,
        stream_versions=versions["value"].to_list(),
        refused=refused,
        follows=follows,
    )


def _p99(latency: Histogram) -> float | None:
    return round(latency.quantile_ms(0.99), 1) if latency.count else None
