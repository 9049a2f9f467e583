"""Decide at which window a running stream changes its model version, and record the decision.

The job watches an alias of the registry. When the alias moves, the job writes the weights of the new version
into the output folder, and then a request. `ChangingLog` reads the request and chooses a window that no shard
can have closed. It adds the change to a journal before it returns another batch. Each later batch holds the
number of records in the journal. A worker that has read fewer records reads the journal before it applies the
batch. So all shards change at the same window, on every engine and in every rerun.

The journal is a part of the state table. Its first record has no window: it names the version with which the
stream began. A rerun takes the versions from the journal, even if the alias has moved since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.shards.lateness import largest_watermark
from forecaster.shards.models import ModelChange
from forecaster.time.frequency import Frequency
from pipelines.sources.base import Log, Positions, Step
from pipelines.storage import Location, markers, output_errors, store_of, write_text, write_to, write_whole
from schemas.errors import DataError, ModelError
from schemas.sealed import seal, unseal

JOURNAL: Final = "models.json"
"""Name of the journal in the folder of the state table. Each change replaces the file as a whole."""

# Seconds between two checks for a `Request`: on a disk, and in an object store, which bills each check.
_CHECK_EVERY_S, _CHECK_SELDOM_S = 0.5, 5.0


class Request(NamedTuple):
    """A request to change the model version of a stream.

    Attributes:
        version: `Forecaster.version` of the new version; the output folder holds its weights.
        model: its name in the registry, such as ``weather/4``.
        windows_ahead: number of windows between the decision and the change; the new version is re-warmed in
            this time.
    """

    version: str
    model: str
    windows_ahead: int


class Change(NamedTuple):
    """A record in the journal of model changes: a model version, and the first window that it steps.

    Attributes:
        version: `Forecaster.version`.
        model: its name in the registry, such as ``weather/4``.
        window: index of the first window that the version closes; None for the version with which the stream
            began.
    """

    version: str
    model: str
    window: int | None


def request_change(output: Location, request: Request) -> None:
    """Write the request for a model change into the output folder; it replaces an earlier request.

    Raises:
        OutputError: the request cannot be written.
    """
    with output_errors(f"{output / markers.MODEL_REQUEST}: cannot be written"):
        write_text(output / markers.MODEL_REQUEST, seal(request._asdict()), kept=True)


def _read_request(output: Location) -> Request | None:
    """Return the last request for a model change; None if there is no readable request."""
    try:
        return Request(**unseal((output / markers.MODEL_REQUEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def clear_request(output: Location) -> None:
    """Delete an earlier run's request for a model change: the alias may have moved since that run."""
    (output / markers.MODEL_REQUEST).unlink(missing_ok=True)


def store_model(output: Location, forecaster: Forecaster) -> None:
    """Write the weights and covariate tables of a model version into the output folder, and sync them.

    Raises:
        OutputError: the files cannot be written.
    """
    covariates = forecaster.covariates
    parts = {"safetensors": forecaster.to_bytes()}
    if not covariates.features.is_empty:
        parts["covariates"] = covariates.to_bytes()
    folder = output / markers.MODELS
    for suffix, data in parts.items():
        path = folder / f"{forecaster.version}.{suffix}"
        with output_errors(f"{path}: cannot be written"):
            store_of(folder).make_folder()
            write_whole(path, lambda target, data=data: write_to(target, data), kept=True)  # type: ignore[misc]


def load_model(output: Location, version: str) -> Forecaster:
    """Return the model version that `store_model` wrote into the output folder.

    Raises:
        DataError: a file cannot be read.
        ModelError: a file is damaged, or has a format that this version of Statecast does not read.
    """
    folder = output / markers.MODELS
    path = folder / f"{version}.safetensors"
    try:
        forecaster = Forecaster.from_bytes(path.read_bytes())
        if forecaster.covariates.features.is_empty:
            return forecaster
        path = folder / f"{version}.covariates"
        return forecaster.with_covariates(Covariates.from_bytes(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}): restore the file") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_changes(states: Location) -> tuple[Change, ...]:
    """Read the journal of model changes, and return its records; empty if the state table has no journal.

    Raises:
        DataError: the journal cannot be read.
    """
    path = states / JOURNAL
    try:
        return tuple(Change(**record) for record in unseal(path.read_bytes())["changes"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}): restore the file") from None


def begin_changes(states: Location, version: str, model: str) -> None:
    """Write a new journal of model changes, with one record: the version with which the stream begins.

    Raises:
        OutputError: the journal cannot be written.
    """
    _write_changes(states, (Change(version, model, None),))


def _write_changes(
    states: Location, changes: tuple[Change, ...], is_ours: Callable[[], bool] | None = None
) -> bool:
    with output_errors(f"{states / JOURNAL}: cannot be written"):
        record = {"changes": [change._asdict() for change in changes]}
        return write_text(states / JOURNAL, seal(record), kept=True, is_ours=is_ours)


def remove_changes(states: Location) -> None:
    """Delete the journal of model changes, because the stream no longer changes its model version."""
    with output_errors(f"{states / JOURNAL}: cannot be written"):
        (states / JOURNAL).unlink(missing_ok=True)


@lru_cache(maxsize=4)
def model_of_run(run: str, output: Location, version: str) -> Forecaster:
    """Return a model version from the output folder; the cache serves all shards of ``run`` in a process."""
    return load_model(output, version)


def model_changes(run: str, output: Location, changes: tuple[Change, ...]) -> tuple[ModelChange, ...]:
    """Return the model changes of a stream, each with the loaded model of its new version.

    The record of the version with which the stream began is left out, because it is no change.

    Raises:
        DataError, ModelError: see `load_model`.
    """
    return tuple(
        ModelChange(c.window, model_of_run(run, output, c.version)) for c in changes if c.window is not None
    )


@dataclass
class ChangingLog:
    """A log that decides from which window another model version is used, and records this in the journal.

    Each batch holds the number of records in the journal, so that a worker reads the journal again when it
    lacks records.

    Attributes:
        log: the log with the rows.
        output: output folder of the job, with requests for model changes.
        states: folder of the state table, which holds the journal.
        freq: length of a window.
        run: id of the run; only the owner of the output folder may decide.
        closed_through: the last window that any shard had closed before the run; None if none was closed.
        clock: returns seconds of a clock that never goes back; tests set another one.
    """

    log: Log
    output: Location
    states: Location
    freq: Frequency
    run: str
    closed_through: int | None = None
    clock: Callable[[], float] = time.monotonic
    _changes: tuple[Change, ...] | None = field(default=None, init=False)
    _newest_us: int | None = field(default=None, init=False)
    _checked_s: float = field(default=float("-inf"), init=False)

    @property
    def is_paced(self) -> bool:
        """Whether rows arrive over time; False if all rows exist already; see `Source`."""
        return self.log.is_paced

    def begin(self, reached: Positions) -> Positions:
        """Return, for each partition of the log, the position from which the partition is read."""
        return self.log.begin(reached)

    def step(self, places: Positions) -> Step[Positions] | None:
        """Return the next batches from the positions ``places`` on; None if the log has ended.

        If a check for a `Request` is due, a requested model change is first recorded in the journal.

        Raises:
            OutputError: the decision cannot be recorded.
        """
        if self._changes is None:
            self._changes = read_changes(self.states)
        self._newest_us = largest_watermark(
            (self._newest_us, *(place.furthest_us for place in places.values()))
        )
        if self._newest_us is not None and self._is_to_check():
            self._changes = self._decide(self._changes, self._newest_us)
        step = self.log.step(places)
        if step is None:
            return None
        self._newest_us = largest_watermark(
            (self._newest_us, *(batch.watermark_us for batch in step.batches))
        )
        count = len(self._changes)
        return step._replace(batches=tuple(replace(batch, changes=count) for batch in step.batches))

    def _is_to_check(self) -> bool:
        every_s = _CHECK_SELDOM_S if store_of(self.output).bills_requests else _CHECK_EVERY_S
        if self.clock() - self._checked_s < every_s:
            return False
        self._checked_s = self.clock()
        return True

    def _decide(self, changes: tuple[Change, ...], newest_us: int) -> tuple[Change, ...]:
        """Return all model changes; add one if a request names another version than the last change."""
        request = _read_request(self.output)
        if request is None or not changes or changes[-1].version == request.version:
            return changes
        # The change must come after ``last``, because shards may have closed the windows up to ``last``.
        earlier = (self.closed_through, changes[-1].window)
        last = max([self.freq.last_closed(newest_us), *(w for w in earlier if w is not None)])
        change = Change(request.version, request.model, last + 1 + request.windows_ahead)
        return (*changes, change) if self._record((*changes, change)) else changes

    def _record(self, changes: tuple[Change, ...]) -> bool:
        """Write the journal of model changes if this run owns the output; return whether it was written."""

        def is_ours() -> bool:
            with suppress(OSError):
                return (self.output / markers.OWNER).read_bytes() == self.run.encode()
            return False

        return _write_changes(self.states, changes, is_ours)
