"""Collect the numbers of one shard, such as latencies and drift, and publish them for the job."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from forecaster.components.profile import Profile
from forecaster.evaluation.drift import InputDrift, drift_of
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.state import live
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import (
    PUBLISHED_EVERY_S,
    PUBLISHED_REMOTELY_EVERY_S,
    RECENT,
    ShardNumbers,
    publish,
)
from pipelines.storage import Location, store_of

_DRIFT_EVERY_S = 1.0  # seconds between two measurements of drift; each takes some milliseconds


class NumbersPublisher:
    """Records the latencies and snapshots of one shard, and publishes its numbers.

    `publish_snapshot` may be called from another thread than the other methods.

    Args:
        output: output folder.
        profile_of: returns the training profile of a model version.
    """

    def __init__(self, output: Location, profile_of: Callable[[str], Profile]) -> None:
        self._output, self._profile_of = output, profile_of
        self._drift: dict[str, InputDrift] = {}
        self._drift_of_window: int | None = None
        self._drift_at_s = float("-inf")
        self._latency = Histogram()
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._publishing = threading.Lock()
        self._published_s = 0.0
        self._published: ShardNumbers | None = None
        self._snapshot_at_s = self._snapshot_ms = 0.0

    def record_latency(self, batch: Batch, shard: Shard) -> None:
        """Record the latency of a batch: the time since its rows arrived.

        Call this when the forecasts of the batch are written. This method does nothing if the batch has no
        time of arrival, or if the shard has not closed any window yet.

        Args:
            batch: the batch.
            shard: the shard after the batch.
        """
        closed = closed_us(shard)
        if batch.arrived_s and closed is not None:
            ms = 1000 * (time.time() - batch.arrived_s)
            self._latency = self._latency.add(ms)
            self._recent.append((closed, ms))

    def is_due(self, has_issued: bool) -> bool:
        """Return whether the numbers of the shard are to be published now.

        On a disk, the numbers are published after each new forecast. An object store bills every request, so
        there only the time since the last publication counts.
        """
        is_billed = store_of(self._output).bills_requests
        every_s = PUBLISHED_REMOTELY_EVERY_S if is_billed else PUBLISHED_EVERY_S
        return (has_issued and not is_billed) or time.monotonic() - self._published_s >= every_s

    def publish(self, shard: Shard, *, is_last: bool = False) -> None:
        """Publish the current numbers of the shard.

        Args:
            shard: the shard.
            is_last: whether these are the last numbers of the run; the drift is then measured even if the
                last measurement is recent.

        Raises:
            OutputError: the numbers cannot be written.
        """
        state, history_bytes = shard.state, 0 if shard.history is None else shard.history.bytes
        self._published_s = time.monotonic()
        self._update_drift(shard, is_last)
        with self._publishing:
            self._published = ShardNumbers(
                shard=shard.number,
                counts=shard.counts,
                closed_us=closed_us(shard),
                watermark_us=shard.watermark_us,
                offsets=shard.offsets,
                series=len(state),
                live=int(live(state).sum()),
                state_bytes=round(state.bytes_per_series * len(state)) + history_bytes,
                latency=self._latency,
                snapshot_at_s=self._snapshot_at_s,
                snapshot_ms=self._snapshot_ms,
                recent=tuple(self._recent),
                drift=self._drift,
                model_version=state.model_version,
            )
            publish(self._output, self._published)

    def _update_drift(self, shard: Shard, is_last: bool) -> None:
        """Measure the drift if a window has closed since the last measurement.

        Unless ``is_last``, measure at most once a second.
        """
        now_s = time.monotonic()
        is_due = is_last or now_s - self._drift_at_s >= _DRIFT_EVERY_S
        if is_due and shard.closed_through != self._drift_of_window:
            self._drift_of_window, self._drift_at_s = shard.closed_through, now_s
            self._drift = drift_of(self._profile_of(shard.state.model_version), shard.state)

    def publish_snapshot(self, duration_s: float) -> None:
        """Publish the time and the duration of a snapshot that was just completed; change no other number.

        They are published at once, because there may be no later batch. Before the first call of `publish`,
        they are only stored for that call.

        Raises:
            OutputError: the numbers cannot be written.
        """
        with self._publishing:
            self._snapshot_at_s, self._snapshot_ms = time.time(), 1000 * duration_s
            if self._published is not None:
                self._published = replace(
                    self._published, snapshot_at_s=self._snapshot_at_s, snapshot_ms=self._snapshot_ms
                )
                publish(self._output, self._published)


def closed_us(shard: Shard) -> int | None:
    """Return the end of the last window that a shard has closed, in microseconds; None if it closed none."""
    closed = shard.closed_through
    return None if closed is None else shard.state.freq.end_us(closed)
