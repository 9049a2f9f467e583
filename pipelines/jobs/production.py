"""Log the quality of a running stream to MLflow: one run named "production" for each model version.

A thread of the process that started the stream logs the scores. So a tracking server that does not answer
delays no shard. Up to 1,000 batches of scores wait in memory meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from forecaster.shards.score_sums import Scores, ScoreSums, add_scores, scores_since
from pipelines.sinks.numbers import JobNumbers
from pipelines.storage import Location, markers, write_text
from schemas.errors import one_line
from schemas.sealed import seal, unseal

if TYPE_CHECKING:
    from forecaster.registry.registry import Registry
    from forecaster.registry.run import Run

RUN_NAME: Final = "production"
VERSION_TAG: Final = "model_version"
"""The tag has the same name as the tag of registered versions, so a search finds the runs of a version."""

_MOST_BATCHES = 1_000
_RETRY_S = 30.0
_END_LIMIT_S = 15.0  # longest wait at a stream's end until the last scores are logged to MLflow


class _Batch(NamedTuple):
    """New scores of one model version and the latest drift of the stream, logged to MLflow together.

    Attributes:
        step: windows that the stream has closed.
        version: the model version.
        by_horizon: by horizon, sums of the errors of the version's forecasts that were scored since the
            previous batch.
        drift: latest population stability index of each input; the same for every version.
    """

    step: int
    version: str
    by_horizon: Mapping[int, ScoreSums]
    drift: Mapping[str, float]


class ProductionRuns:
    """Logs the new scores and the drift of a stream to MLflow at intervals, in a thread.

    A file in the output folder holds the sums of the logged scores. So a stream that resumes from an older
    snapshot does not log the same scores again.

    Args:
        open_registry: returns a registry that continues the run with the given id; with "", it begins a new
            run.
        output: output folder.
        every_s: seconds between two batches.
        say: prints a line for the user; called from another thread.
        is_resume: whether the stream resumes; otherwise the file of an earlier stream is ignored.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        open_registry: Callable[[str], Registry],
        output: Location,
        every_s: float,
        say: Callable[[str], None],
        *,
        is_resume: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_registry, self._output, self._every_s = open_registry, output, every_s
        self._say, self._clock = say, clock
        self._run_ids, self._logged = _read(output) if is_resume else ({}, {})
        self._taken: Scores = self._logged
        self._batch_at_s = clock()
        self._latest = JobNumbers()
        self._waiting: deque[_Batch] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._is_ended = False
        self._runs: dict[str, Run] = {}
        self._thread = threading.Thread(target=self._work, name="production", daemon=True)
        self._thread.start()

    def take(self, numbers: JobNumbers) -> None:
        """Store the job's current numbers; every ``every_s`` seconds, queue the new scores; do not wait."""
        self._latest = numbers
        if self._clock() - self._batch_at_s >= self._every_s:
            self._batch_at_s = self._clock()
            self._queue_batch()

    def close(self) -> None:
        """Log the last scores and end the MLflow runs; report the batches that are not logged within 15 s."""
        self._queue_batch()
        with self._changed:
            self._is_ended = True
            self._changed.notify()
        self._thread.join(_END_LIMIT_S)
        left = len(self._waiting) + self._dropped
        if left:
            batches = "1 batch of scores was" if left == 1 else f"{left} batches of scores were"
            self._say(f"{batches} not logged to the run {RUN_NAME} in MLflow")

    def _queue_batch(self) -> None:
        """Queue one batch of scores for each model version with new scores since the previous call."""
        counts = self._latest.counts
        new = scores_since(counts.scores, self._taken)
        if not new:
            return
        self._taken = add_scores(self._taken, new)
        indices = {name: drift.index for name, drift in self._latest.drift.items()}
        known = {name: index for name, index in indices.items() if index is not None}
        with self._changed:
            self._waiting += [_Batch(counts.windows, version, new[version], known) for version in new]
            while len(self._waiting) > _MOST_BATCHES:
                self._waiting.popleft()
                self._dropped += 1
            self._changed.notify()

    def _work(self) -> None:
        """Log the queued batches of scores to MLflow until the stream ends; the thread runs this method."""
        try:
            with ExitStack() as opened:
                self._log_all(opened)
        # The store does not answer, so the runs cannot be marked as finished.
        except Exception as error:
            self._say(f"the run {RUN_NAME} could not be ended in MLflow: {one_line(error)}")
        for line in {line: None for run in self._runs.values() for line in run.notices}:
            self._say(line)

    def _log_all(self, opened: ExitStack) -> None:
        is_away = False
        while (batch := self._next(_RETRY_S if is_away else 0.0)) is not None:
            try:
                self._log(batch, opened)
            except Exception as error:
                if not is_away:
                    self._say(f"scores wait until they can be logged to MLflow: {one_line(error)}")
                is_away = True
            else:
                is_away = False
                with self._changed:
                    if self._waiting and self._waiting[0] is batch:
                        self._waiting.popleft()

    def _next(self, pause_s: float) -> _Batch | None:
        """Wait ``pause_s`` seconds, then for a queued batch; return it, or None if the stream ends first."""
        with self._changed:
            if pause_s:
                self._changed.wait_for(lambda: self._is_ended, pause_s)
                if self._is_ended:  # the stream has ended, so do not try again
                    return None
            self._changed.wait_for(lambda: bool(self._waiting) or self._is_ended)
            return self._waiting[0] if self._waiting else None

    def _log(self, batch: _Batch, opened: ExitStack) -> None:
        """Log a batch of scores to the MLflow run of its model version; store the sums of all logged scores.

        Raises:
            Exception: the store did not accept the batch.
        """
        version = batch.version
        if version not in self._runs:
            registry = self._open_registry(self._run_ids.get(version, ""))
            tags = {VERSION_TAG: version, "statecast.output": str(self._output)}
            started = registry.start_run(RUN_NAME, {}, tags, model_version=version)
            self._runs[version] = opened.enter_context(started)
            self._run_ids[version] = self._runs[version].run_id
        metrics = _metrics(batch.by_horizon, batch.drift)
        self._runs[version].log_points(metrics, batch.step, of_model=True)
        self._logged = add_scores(self._logged, {version: batch.by_horizon})
        record = {"runs": self._run_ids, "logged": self._logged}
        write_text(self._output / markers.PRODUCTION, seal(record), kept=True)


def _metrics(by_horizon: Mapping[int, ScoreSums], drift: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a batch of scores by name, such as ``production/mase_h1``."""
    found = {f"{RUN_NAME}/drift_{name}": index for name, index in drift.items()}
    for horizon, sums in by_horizon.items():
        found |= {f"{RUN_NAME}/{name}_h{horizon}": value for name, value in sums.measures().items()}
        found[f"{RUN_NAME}/scored_h{horizon}"] = float(sums.scored)
    return found


def _read(output: Location) -> tuple[dict[str, str], Scores]:
    """Read from the output folder, by model version, the ids of the MLflow runs and the logged score sums.

    Both are empty if the file with them is missing or unreadable.
    """
    try:
        record: Any = unseal((output / markers.PRODUCTION).read_bytes())
        logged = {
            str(version): {int(horizon): ScoreSums(*map(int, sums)) for horizon, sums in by_horizon.items()}
            for version, by_horizon in record["logged"].items()
        }
        return {str(version): str(run) for version, run in record["runs"].items()}, logged
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
