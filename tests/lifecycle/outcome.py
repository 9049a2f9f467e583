"""Measure how the stream behaved: lost windows, late rows, latencies, and the model versions in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.sinks.files import read_forecasts
from pipelines.sinks.latency import Histogram, upper_ms
from tests.lifecycle import inputs
from tests.lifecycle.processes import difference


@dataclass(frozen=True)
class Streamed:
    """The output folder and the measurements of a stream that has ended.

    Attributes:
        output: output folder.
        days: number of days that the stream has read, history included.
        ended: JSON object of the stream.
        before: latencies of batches until the retraining.
        during: latencies of batches until some days after the stream has the new version.
    """

    output: Path
    days: int
    ended: dict[str, Any]
    before: Histogram
    during: Histogram


@dataclass(frozen=True)
class Outcome:
    """The results of a run of `tests.lifecycle`.

    Attributes:
        windows_lost: closed windows of a series without a forecast.
        windows_late: rows that the stream counted as late.
        swap_delay_ms_max: longest latency of a batch from the begin of the retraining until some days after
            the stream has the new version.
        p99_ms_before, p99_ms_during: p99 of the latency of batches before the retraining, and from its begin
            until some days after the alias has moved.
        rewarm_difference: largest difference between a forecast after a change of the version and that of a
            state that always had the new version, in units of the scale of the series.
        champion_versions: versions that the champion pointed to, in order.
        stream_versions: model versions of the stream's forecasts, in order.
        refused: versions that were refused, at the gate or by the stream.
    """

    windows_lost: int
    windows_late: int
    swap_delay_ms_max: float
    p99_ms_before: float
    p99_ms_during: float
    rewarm_difference: float
    champion_versions: list[str]
    stream_versions: list[str]
    refused: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `tests.lifecycle` prints as its last line."""
        return asdict(self)

    @property
    def is_good(self) -> bool:
        """Return True if no window was lost, no row was late, and the versions are as planned.

        The plan gives the versions of the champion, the refused versions, and the number of versions of the
        stream.
        """
        return (
            not self.windows_lost
            and not self.windows_late
            and self.champion_versions == [f"fleet/{number}" for number in (1, 2, 4, 2, 1)]
            and self.refused == ["fleet/3", "fleet/4"]
            and len(self.stream_versions) == 3
        )


def measure(streamed: Streamed, champion_versions: list[str], refused: list[str], always: Path) -> Outcome:
    """Compute the figures of a lifecycle run from the outputs of its stream.

    Args:
        streamed: the stream.
        champion_versions: versions that the champion pointed to, in order.
        refused: versions that were refused.
        always: output folder of a backfill of the same rows by the promoted version alone.
    """
    forecasts = read_forecasts(streamed.output)
    # The last window stays open, because no later row closes it.
    expected = ((streamed.days - inputs.HISTORY_DAYS) * 24 - 1) * inputs.SERIES
    found = forecasts.select("series_id", "issued_at").unique()
    versions = forecasts.sort("issued_at").select(pl.col("model_version").rle()).unnest("model_version")
    added = difference(streamed.during, streamed.before)
    return Outcome(
        windows_lost=expected - len(found),
        windows_late=int(streamed.ended["late"]),
        swap_delay_ms_max=round(upper_ms(max(added.buckets)), 1),
        p99_ms_before=_p99(streamed.before),
        p99_ms_during=_p99(added),
        rewarm_difference=_rewarm_difference(forecasts, read_forecasts(always)),
        champion_versions=champion_versions,
        stream_versions=versions["value"].to_list(),
        refused=refused,
    )


def _p99(latency: Histogram) -> float:
    return round(latency.quantile_ms(0.99), 1)


def _rewarm_difference(forecasts: pl.DataFrame, always: pl.DataFrame) -> float:
    """Return the largest difference between the forecast medians of two frames, divided by the data's scale.

    A forecast is compared with the forecast of the other frame for the same series, issue time and model
    version.

    Args:
        forecasts: forecasts of the stream, whose state was re-warmed for the version.
        always: forecasts by a state that always had the version.
    """
    keys = ["series_id", "issued_at", "model_version"]
    both = forecasts.join(always, on=keys, suffix="_always")
    medians = [
        pl.col(name).list.eval(pl.element().struct.field("q50")) for name in ("forecast", "forecast_always")
    ]
    pairs = both.select(medians).explode("forecast", "forecast_always")
    difference = (pairs["forecast"] - pairs["forecast_always"]).abs().max()
    return round(float(difference) / inputs.SCALE, 6)  # type: ignore[arg-type]
