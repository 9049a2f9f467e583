"""Summarize a fleet for the dashboard: rows by outcome, latencies, scores, and silent series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from forecaster.shards.counts import Counts
from pipelines.dashboard.snapshots import ShardSeries
from pipelines.sinks.numbers import JobNumbers, ShardNumbers

LISTED: Final = 20
"""Largest number of series in a list of the page."""

SILENT_WINDOWS: Final = 3
"""A live series counts as silent if it has no row in this many windows."""

_ROLES: Final = (IN_USE := "in use", SHADOW := "shadow", EARLIER := "earlier")
_SILENT: Final = {"series_id": pl.String, "windows": pl.Int64, "since_us": pl.Int64}


def numbers_of(published: Sequence[ShardNumbers], shards: Sequence[ShardSeries]) -> JobNumbers:
    """Return a job's numbers, summed over shards: the published numbers, else the numbers in snapshots.

    A finished backfill has only snapshots, which hold no latencies.
    """
    if published:
        return JobNumbers.of(published)
    if not shards:
        return JobNumbers()
    closed = [s.freq.end_us(s.shard.closed_through) for s in shards if s.shard.closed_through is not None]
    marks = [us for s in shards for us in s.shard.watermarks.values() if us is not None]
    return JobNumbers(
        counts=sum((one.shard.counts for one in shards), Counts()),
        closed_us=min(closed, default=None),
        watermark_us=min(marks, default=None),
        series=sum(len(one.ids) for one in shards),
        live=sum(int(one.live.sum()) for one in shards),
        shards=len(shards),
    )


def as_json(numbers: JobNumbers, now_s: float) -> dict[str, Any]:
    """Return the figures of a job for the page; times are texts in UTC, such as ``2013-01-31 05:00:00``."""
    counts = numbers.counts
    names = ("rows_in", "used", "duplicates", "late", "pending", "replaced", "outside", "windows")
    quarantined = sorted(counts.quarantined.items(), key=lambda item: -item[1])
    return {
        "rows": {name: getattr(counts, name) for name in names} | {"quarantined": counts.rejected},
        "quarantine": [{"reason": reason, "rows": rows} for reason, rows in quarantined],
        "series": numbers.series,
        "live": numbers.live,
        "shards": numbers.shards,
        "closed_until": text_of(numbers.closed_us),
        "watermark": text_of(numbers.watermark_us),
        "watermark_lag_s": numbers.watermark_lag_s(now_s),
        "latency_ms": _latencies(numbers),
        "drift": [
            {"input": name, "index": drift.index, "series_id": drift.worst_series, "worst": drift.worst_index}
            for name, drift in numbers.drift.items()
        ],
    }


def versions(counts: Counts, in_use: Sequence[str], shadows: Collection[str]) -> list[dict[str, Any]]:
    """Return the scores of the forecasts of each model version at each horizon, for the page.

    Args:
        counts: the counts of a job.
        in_use: the model versions in use; they come first.
        shadows: the versions that forecast as a shadow.
    """
    roles = {
        version: IN_USE if version in in_use else SHADOW if version in shadows else EARLIER
        for version in counts.scores
    }
    by_role = sorted(counts.scores.items(), key=lambda item: _ROLES.index(roles[item[0]]))
    return [
        {
            "version": version,
            "role": roles[version],
            "horizon": horizon,
            "scored": sums.scored,
            "mase": sums.mase,
            "bias": sums.bias,
            "coverage": sums.coverage,
        }
        for version, by_horizon in by_role
        for horizon, sums in sorted(by_horizon.items())
    ]


def _latencies(numbers: JobNumbers) -> dict[str, float]:
    latency = numbers.latency
    return {f"p{p}": latency.quantile_ms(p / 100) for p in (50, 99)} if latency.count else {}


def silent_series(shards: Sequence[ShardSeries]) -> dict[str, Any]:
    """Return the live series without a row in the last `SILENT_WINDOWS` windows, the longest gap first.

    Returns:
        ``count``; ``retired``, the number of series that are no longer live; and ``series``, at most `LISTED`
        dicts of ``series_id``, ``windows`` without a row, and ``since``, the end of the last window with a
        row.
    """
    count, parts = 0, [pl.DataFrame(schema=_SILENT)]
    for one in shards:
        rows = np.flatnonzero(one.live & (one.silent >= SILENT_WINDOWS))
        count += len(rows)
        # Read only the ids of the series that may be listed. If the source has stopped, all series are
        # silent, and reading all their ids would take long.
        rows = rows[np.argsort(-one.silent[rows], kind="stable")[:LISTED]]
        since_us = one.freq.end_us(one.clock[rows] - one.silent[rows])
        ids = one.ids.gather(rows).cast(pl.String)
        parts.append(pl.DataFrame({"series_id": ids, "windows": one.silent[rows], "since_us": since_us}))
    longest = pl.concat(parts).sort(["windows", "series_id"], descending=[True, False]).head(LISTED)
    listed = [
        {"series_id": row["series_id"], "windows": row["windows"], "since": text_of(row["since_us"])}
        for row in longest.iter_rows(named=True)
    ]
    retired = sum(len(one.ids) - int(one.live.sum()) for one in shards)
    return {"count": count, "retired": retired, "series": listed}


def most_alarms(alarms: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the series with the most alarms, at most `LISTED`: ``series_id``, ``alarms`` and ``last``."""
    ranked = (
        alarms.group_by("series_id")
        .agg(pl.len().alias("alarms"), pl.col("issued_at").max().alias("last"))
        .sort(["alarms", "last", "series_id"], descending=[True, True, False])
        .head(LISTED)
    )
    return [
        {**row, "last": text_of(int(row["last"].timestamp() * 1e6))} for row in ranked.iter_rows(named=True)
    ]


def model_versions(numbers: JobNumbers, shards: Sequence[ShardSeries]) -> list[str]:
    """Return the model versions that a job's shards have published, or else the versions in its snapshots."""
    return [*numbers.model_versions] or sorted({one.shard.state.model_version for one in shards})


def text_of(us: int | None) -> str | None:
    """Return a time in microseconds since 1970 as text in UTC, such as ``2013-01-31 05:00:00``."""
    return None if us is None else f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
