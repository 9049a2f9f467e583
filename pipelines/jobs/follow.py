"""Watch an alias of the model registry while a stream runs; if it moves, request a model change or report it.

A thread of the process that started the stream polls the alias. So a slow tracking server delays no shard.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

from forecaster.model import Forecaster
from forecaster.shards.compatibility import check_can_replace
from pipelines.jobs.job import StreamJob
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Log
from pipelines.sources.model_changes import (
    Change,
    ChangingLog,
    Request,
    begin_changes,
    clear_request,
    load_model,
    read_changes,
    remove_changes,
    request_change,
    store_model,
)
from pipelines.state import state_table
from pipelines.storage import Location
from pipelines.workers.step_settings import StepSettings
from schemas.errors import StatecastError

if TYPE_CHECKING:
    from pipelines.jobs.registered_alias import AliasedVersion, RegisteredAlias

POLL_S = 30.0
"""Seconds between two polls of an alias."""

_TICK_S = 0.5
_RATE_OVER_S = 60.0
# Low estimate of the series-steps per second of a warm-up, on a core that also steps shards. A series-step
# is one window of one series.
_SERIES_STEPS_PER_S = 20_000
_LEAST_AHEAD = 2


@dataclass
class ModelWatch:
    """Watches an alias; if the stream follows the alias, requests a model change when the alias moves.

    Attributes:
        alias: the alias.
        follows: whether the stream follows the alias; if not, the watch only reports that the alias moved.
        forecaster: the version with which the stream began.
        output: output folder of the stream.
        notice: called with a line for the user.
        poll_s: seconds between two polls.
    """

    alias: RegisteredAlias
    follows: bool
    forecaster: Forecaster
    output: Location
    notice: Callable[[str], None]
    poll_s: float = field(default_factory=lambda: POLL_S)
    # The version, such as ``weather/4``, that a poll has handled. The next polls skip it.
    _seen: str | None = field(default=None, init=False)
    _requested: Request | None = field(default=None, init=False)
    _change: Change | None = field(default=None, init=False)
    _line: str = field(default="", init=False)
    _is_away: bool = field(default=False, init=False)
    _numbers: JobNumbers = field(default_factory=JobNumbers, init=False)
    _closed: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]), init=False)
    _is_running: threading.Event = field(default_factory=threading.Event, init=False)
    _is_ended: threading.Event = field(default_factory=threading.Event, init=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Poll the alias in a thread during the ``with`` block, from the first call of `take` on."""
        clear_request(self.output)
        thread = threading.Thread(target=self._run, name="model alias", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_ended.set()
            self._is_running.set()
            # Wait only for a short time, because the polling thread may be waiting for the tracking server.
            thread.join(_TICK_S)

    def with_model(self, on_progress: Callable[[JobNumbers], None]) -> Callable[[JobNumbers], None]:
        """Return a function that passes a job's numbers to `take`, and its result to ``on_progress``."""
        return lambda numbers: on_progress(self.take(numbers))

    def take(self, numbers: JobNumbers) -> JobNumbers:
        """Keep ``numbers`` for the polling thread; return them with the alias notice and any next model."""
        self._numbers = numbers
        self._closed.append((time.monotonic(), numbers.counts.windows))
        while self._closed[-1][0] - self._closed[0][0] > _RATE_OVER_S:
            self._closed.popleft()
        self._is_running.set()
        change = self._change
        if change is None or change.window is None or numbers.model_versions == (change.version,):
            return replace(numbers, model_notice=self._line)
        next_us = self.forecaster.window_config.frequency.end_us(change.window - 1)
        return replace(numbers, model_notice=self._line, next_model=change.version, next_model_us=next_us)

    def _run(self) -> None:
        self._is_running.wait()
        polled_s = float("-inf")
        while not self._is_ended.wait(_TICK_S):
            if time.monotonic() - polled_s >= self.poll_s:
                try:
                    self.poll()
                except StatecastError as error:  # the output folder cannot be read or written
                    self._report(f"the model cannot be changed: {error}")
                polled_s = time.monotonic()
            with suppress(StatecastError):
                self._report_change()

    def poll(self) -> None:
        """Read the alias; if it names a new version, request a model change, or report why not."""
        aliased = self._read_alias()
        if aliased is None or aliased.model == self._seen:
            return
        self._seen, self._line = aliased.model, ""
        if aliased.version == self._wanted():
            return
        if not self.follows:
            self._report(
                f"{self.alias} is now {aliased.model} ({aliased.version}); this stream keeps "
                f"{self.forecaster.version}: start it again, or set stream.follow"
            )
            return
        try:
            new = self.alias.load(aliased.model)
            check_can_replace(new, self.forecaster)
        except (StatecastError, ValueError, RuntimeError, TypeError) as error:
            if self._read_alias() is None:
                self._seen = None  # the registry does not answer, so let the next poll check again
            else:
                reason = str(error) if isinstance(error, StatecastError) else f"it cannot be stepped: {error}"
                self._refuse(aliased, reason)
            return
        if not self._is_ended.is_set():
            store_model(self.output, new)
            self._requested = Request(new.version, aliased.model, self._windows_ahead())
            request_change(self.output, self._requested)

    def _read_alias(self) -> AliasedVersion | None:
        """Return the version that the alias names; None if no version has it or the registry cannot be read.

        Of several failures in a row, only the first is reported.
        """
        try:
            aliased = self.alias.current()
        except StatecastError as error:
            if not self._is_away:
                self.notice(f"the stream keeps its model while {self.alias} cannot be read: {error}")
            self._is_away = True
            return None
        self._is_away = False
        return aliased

    def _wanted(self) -> str:
        """Return the requested model version, or else the version that the stream uses or will use."""
        if self._requested is not None:
            return self._requested.version
        changes = read_changes(self.output / state_table.FOLDER) if self.follows else ()
        return changes[-1].version if changes else self.forecaster.version

    def _refuse(self, aliased: AliasedVersion, reason: str) -> None:
        self._report(f"{aliased.model} ({aliased.version}) is refused: {reason}; the stream keeps its model")
        try:
            self.alias.refuse(aliased.model, reason)
        except StatecastError as error:
            self.notice(f"the reason could not be written to {aliased.model}: {error}")

    def _report(self, line: str) -> None:
        self._line = line
        self.notice(line)

    def _windows_ahead(self) -> int:
        """Return how many windows ahead a model change is set: as many as close in twice the warm-up time.

        The warm-up time is estimated. The number is at most the length of the ring, but at least 2.

        A stream counts as closing at least one window in each period, even if it has closed none so far.
        """
        ring, freq = self.forecaster.network_config.ring, self.forecaster.window_config.frequency
        (began_s, first), (ended_s, last) = self._closed[0], self._closed[-1]
        windows_per_s = (last - first) / (ended_s - began_s) if ended_s > began_s else 0.0
        windows_per_s = max(windows_per_s, 1 / freq.nominal_s)
        warming_s = self._numbers.series * ring / _SERIES_STEPS_PER_S
        return max(_LEAST_AHEAD, min(ring, ceil(2 * warming_s * windows_per_s)))

    def _report_change(self) -> None:
        """Report when a requested model change takes effect, once the log's reader has chosen its window."""
        if self._requested is None or (
            self._change is not None and self._change.version == self._requested.version
        ):
            return
        changes = read_changes(self.output / state_table.FOLDER)
        if not changes or changes[-1].version != self._requested.version:
            return
        self._change = change = changes[-1]
        if change.window is not None:
            us = self.forecaster.window_config.frequency.end_us(change.window - 1)
            self.notice(f"{change.model} ({change.version}) is in use from {utc_time(us)} on")


def utc_time(us: int) -> str:
    """Format a time in microseconds since 1970 for people: ``2013-01-01 00:00 UTC``."""
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


def with_first_model(job: StreamJob, is_resume: bool) -> StreamJob:
    """Return the job; if it resumes and follows an alias, give it the version that its first run began with.

    Raises:
        DataError, ModelError: the journal of the changes, or the weights of the version, cannot be read.
    """
    changes = read_changes(job.states) if job.follows and is_resume else ()
    if not changes or changes[0].version == job.forecaster.version:
        return job
    return replace(job, forecaster=load_model(job.output, changes[0].version))


def with_changes(job: StreamJob, log: Log, settings: StepSettings) -> Log:
    """Return the log of a stream; if the stream follows an alias, wrap the log in a `ChangingLog`.

    Call this only when the run owns the output folder, because this function writes or removes the journal of
    the changes.

    Raises:
        OutputError: the journal or the weights cannot be written.
    """
    if job.shadow is not None:
        store_model(job.output, job.shadow)
    if not job.follows:
        remove_changes(job.states)
        return log
    changes = read_changes(job.states)
    store_model(job.output, job.forecaster)
    if not changes:
        begin_changes(job.states, job.forecaster.version, job.model)
    # If a version after the first one has covariates, store it again, because the job's covariate tables may
    # have changed since the last run.
    for change in changes[1:]:
        new = load_model(job.output, change.version)
        if job.alias is not None and not new.covariates.features.is_empty:
            store_model(job.output, job.alias.with_tables(new))
    closed = [shard.closed_through for shard in state_table.read(job.states, series=False).shards]
    freq = job.forecaster.window_config.frequency
    through = max((window for window in closed if window is not None), default=None)
    return ChangingLog(log, job.output, job.states, freq, settings.job, through)
