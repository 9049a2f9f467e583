"""Publish the numbers of each shard of a job (counts, offsets, latencies), and combine them for the job.

Workers may run in other processes, on other machines. So each shard writes its numbers into a small file in
the output folder, and the job reads all of these files. The files do not grow during a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from forecaster.evaluation.drift import InputDrift
from forecaster.shards.counts import Counts
from pipelines.sinks.latency import Histogram
from pipelines.storage import Location, markers, store_of, write_text
from schemas.errors import OutputError

PUBLISHED_EVERY_S: Final = 0.05
"""Least seconds between two publications of a shard while it issues no new forecasts."""

PUBLISHED_REMOTELY_EVERY_S: Final = 2.0
"""Least seconds between two publications of a shard, and between two reads, if the output is in a store.

Stores bill every request.
"""

RECENT: Final = 64
"""Number of single latencies that a shard publishes, so that `JobReader` can match them between shards."""


@dataclass(frozen=True)
class ShardNumbers:
    """The numbers that one shard publishes: counts, watermark, offsets, latencies, drift.

    Attributes:
        shard: number of the shard.
        counts: counts of rows by outcome.
        closed_us: end of the last closed window in microseconds; None before the first.
        watermark_us: smallest watermark of its partitions in microseconds; None before the first.
        offsets: next offset of each partition.
        series, live: number of slots, and of series that are being forecast.
        state_bytes: size of the arrays of its state.
        latency: for all batches, the time from the arrival of the rows to the writing of the forecasts.
        snapshot_at_s, snapshot_ms: wall clock at the end of the last snapshot, and its duration; 0 before the
            first.
        model_version: version of the model that made the shard's state; "" in files of earlier versions of
            Statecast.
        recent: the last `RECENT` latencies, oldest first, each as ``closed_us`` after its batch and
            milliseconds.
        drift: drift of each input of the model against the training data, by name; empty without a profile.
    """

    shard: int
    counts: Counts
    closed_us: int | None
    watermark_us: int | None
    offsets: Mapping[str, int]
    series: int
    live: int
    state_bytes: int
    latency: Histogram = field(default_factory=Histogram)
    snapshot_at_s: float = 0.0
    snapshot_ms: float = 0.0
    recent: tuple[tuple[int, float], ...] = ()
    drift: Mapping[str, InputDrift] = field(default_factory=dict)
    model_version: str = ""


@dataclass(frozen=True)
class JobNumbers:
    """The numbers of all shards of a job together.

    Attributes:
        counts: counts of rows by outcome.
        closed_us: smallest ``closed_us`` of the shards that have one; None if no shard has one.
        watermark_us: smallest watermark of the shards that have one, in microseconds; None if no shard does.
        series, live, state_bytes: sums over the shards.
        latency: latencies of the batches of all shards.
        window_latency: latencies of windows; a window is done when its slowest shard is done.
        snapshot_at_s: wall clock of the oldest of the shards' last snapshots; 0 while a shard has none.
        snapshot_ms: longest duration of the shards' last snapshots.
        drift: drift of each input of the model over all shards, by name.
        shards: number of shards that have published.
        model_versions: the model versions of the shards, sorted; several while the version changes.
        next_model: the next model version; "" if no change is decided.
        next_model_us: start of the first window that it closes, in microseconds.
        model_notice: why the stream has another model version than the alias that it watches names; "" if it
            has the same.
    """

    counts: Counts = field(default_factory=Counts)
    closed_us: int | None = None
    watermark_us: int | None = None
    series: int = 0
    live: int = 0
    state_bytes: int = 0
    latency: Histogram = field(default_factory=Histogram)
    window_latency: Histogram = field(default_factory=Histogram)
    snapshot_at_s: float = 0.0
    snapshot_ms: float = 0.0
    drift: Mapping[str, InputDrift] = field(default_factory=dict)
    shards: int = 0
    model_versions: tuple[str, ...] = ()
    next_model: str = ""
    next_model_us: int | None = None
    model_notice: str = ""

    @staticmethod
    def of(shards: Sequence[ShardNumbers], window_latency: Histogram | None = None) -> JobNumbers:
        """Combine the numbers of a job's shards; ``window_latency`` holds the latencies of its windows."""
        if not shards:
            return JobNumbers()
        return JobNumbers(
            counts=sum((s.counts for s in shards), Counts()),
            closed_us=min((s.closed_us for s in shards if s.closed_us is not None), default=None),
            watermark_us=min((s.watermark_us for s in shards if s.watermark_us is not None), default=None),
            series=sum(s.series for s in shards),
            live=sum(s.live for s in shards),
            state_bytes=sum(s.state_bytes for s in shards),
            latency=sum((s.latency for s in shards), Histogram()),
            window_latency=window_latency or Histogram(),
            snapshot_at_s=min(s.snapshot_at_s for s in shards),
            snapshot_ms=max(s.snapshot_ms for s in shards),
            drift=_combined_drift(shard.drift for shard in shards),
            shards=len(shards),
            model_versions=tuple(sorted({s.model_version for s in shards if s.model_version})),
        )

    def watermark_lag_s(self, now_s: float) -> float | None:
        """Return how many seconds the watermark is behind the wall clock; None without a watermark."""
        return None if self.watermark_us is None else now_s - self.watermark_us / 1e6

    def as_json(self, now_s: float) -> dict[str, Any]:
        """Return the numbers of the job as a dict that can be written as a line of JSON.

        ``p50_ms`` and ``p99_ms`` are quantiles of the latencies of windows; ``shard_p50_ms`` and
        ``shard_p99_ms`` are quantiles of the latencies of the shards' batches.
        """
        age = None if not self.snapshot_at_s else round(now_s - self.snapshot_at_s, 1)
        lag = self.watermark_lag_s(now_s)
        return {
            **self.counts.as_json(),
            "quarantined_share": round(self.counts.quarantined_share, 4),
            "series": self.series,
            "live": self.live,
            "closed_us": self.closed_us,
            "watermark_us": self.watermark_us,
            "watermark_lag_s": None if lag is None else round(lag, 1),
            **_quantiles("", self.window_latency),
            **_quantiles("shard_", self.latency),
            "snapshot_age_s": age,
            "snapshot_ms": round(self.snapshot_ms, 1),
            "state_bytes": self.state_bytes,
            "drift": {name: _drift_as_json(drift) for name, drift in self.drift.items()},
            "model_versions": list(self.model_versions),
            **(
                {"next_model": self.next_model, "next_model_us": self.next_model_us}
                if self.next_model
                else {}
            ),
            **({"model_notice": self.model_notice} if self.model_notice else {}),
        }


def _combined_drift(parts: Iterable[Mapping[str, InputDrift]]) -> dict[str, InputDrift]:
    """Combine the drift of each input over all shards; see `InputDrift.__add__`."""
    total: dict[str, InputDrift] = {}
    for part in parts:
        for name, drift in part.items():
            total[name] = total[name] + drift if name in total else drift
    return total


def _drift_as_json(drift: InputDrift) -> dict[str, Any]:
    index = drift.index
    return {
        "index": None if index is None else round(index, 4),
        "worst_series": drift.worst_series,
        "worst_index": round(drift.worst_index, 4),
    }


def _quantiles(prefix: str, latency: Histogram) -> dict[str, float]:
    if not latency.count:
        return {}
    return {f"{prefix}p{p}_ms": round(latency.quantile_ms(p / 100), 1) for p in (50, 99)}


def publish(folder: Location, numbers: ShardNumbers) -> None:
    """Write the numbers of a shard to its file; do nothing if the output folder no longer exists.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / markers.NUMBERS / markers.numbers_of_shard(numbers.shard)
    # Use `vars`, because `asdict` would copy every latency, and a shard may publish many times a second.
    drift = {name: vars(drift) for name, drift in numbers.drift.items()}
    parts = {"counts": vars(numbers.counts), "latency": vars(numbers.latency), "drift": drift}
    try:
        write_text(path, json.dumps(vars(numbers) | parts))
    except FileNotFoundError:
        disk = store_of(folder).on_disk
        if disk is not None and disk.exists():
            (disk / markers.NUMBERS).mkdir(exist_ok=True)
            publish(folder, numbers)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


_ADAPTER: Final = TypeAdapter(ShardNumbers)


def _files(folder: Location) -> list[Location]:
    return sorted((folder / markers.NUMBERS).glob(markers.SHARDS_WITH_NUMBERS), key=lambda path: path.name)


def read_shards(folder: Location) -> list[ShardNumbers]:
    """Return the last numbers of each shard that has published numbers."""
    found = []
    for path in _files(folder):
        # Skip a file that was removed after it was listed, or that this Statecast version cannot parse.
        # If the job is running, the shard soon publishes a new file.
        with suppress(FileNotFoundError, ValueError):
            found.append(_ADAPTER.validate_json(path.read_bytes()))
    return found


def applied(folder: Location, shards: int) -> Mapping[str, int]:
    """Return for each partition the offset that all of its shards have reached.

    All rows before this offset are applied. The result is empty until every shard has published.
    """
    found = read_shards(folder)
    if len(found) != shards:
        return {}
    names = {name for shard in found for name in shard.offsets}
    return {name: min(s.offsets[name] for s in found if name in s.offsets) for name in names}


def notices_of(folder: Location) -> Location:
    """Return the path of the file with the notices about the rows that a job has read."""
    return folder / markers.NUMBERS / markers.NOTICES


def clear(folder: Location) -> None:
    """Remove the published numbers and notices of an earlier job from an output folder."""
    store_of(folder / markers.NUMBERS).remove_tree()
