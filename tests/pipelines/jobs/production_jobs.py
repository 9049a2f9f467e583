"""Helpers for tests of `ProductionRuns`: a fake store, made-up `JobNumbers`, and a job with a fake clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from forecaster.evaluation.drift import InputDrift
from forecaster.registry.registry import Registry
from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import ScoreSums
from pipelines.jobs.production import ProductionRuns
from pipelines.sinks.numbers import JobNumbers
from schemas.errors import ModelError


class Store:
    """A fake MLflow store that keeps runs in memory, and that is unreachable while ``away`` is True."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.tags: dict[str, Mapping[str, str]] = {}
        self.ended: list[str] = []
        self.notices: list[str] = []
        self.away = False
        self.is_asked = threading.Event()

    def open(self, run_id: str) -> Registry:
        return cast("Registry", _OpenStore(self, run_id))

    def check(self) -> None:
        self.is_asked.set()
        if self.away:
            raise ModelError("http://nowhere:5000 cannot be reached")


class _OpenStore:
    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    @contextmanager
    def start_run(
        self, name: str, params: object, tags: Mapping[str, str], model_version: str
    ) -> Iterator[_Run]:
        assert model_version == tags["model_version"]
        self.store.check()
        run = _Run(self.store, self.run_id or f"{name}-{len(self.store.points)}")
        self.store.points.setdefault(run.run_id, [])
        self.store.tags[run.run_id] = tags
        yield run
        self.store.ended.append(run.run_id)


class _Run:
    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id, self.notices = store, run_id, list[str](store.notices)

    def log_points(self, metrics: dict[str, float], step: int, *, of_model: bool) -> None:
        assert of_model
        self.store.check()
        self.store.points[self.run_id].append((step, metrics))


def numbers(windows: int, *versions: str, drift: bool = False) -> JobNumbers:
    """Return the `JobNumbers` of a job after ``windows`` windows.

    Each version has one scored forecast per window, at horizon 1; every forecast was 2 units too high.
    """
    sums = ScoreSums(
        windows, 2_000_000 * windows, -2_000_000 * windows, windows, 1_000_000 * windows, windows
    )
    scores = {version: {1: sums} for version in versions or ("lstm-1",)}
    inputs = {"value": InputDrift([100] * 10, [100.0] * 10)} if drift else {}
    return JobNumbers(Counts(windows=windows, scores=scores), drift=inputs)


class Job:
    """The `ProductionRuns` of one job, which log to a `Store` and use a fake clock.

    `take` moves the clock forward, and then passes the numbers of the job to the runs.
    """

    def __init__(self, store: Store, folder: Path, **options: Any) -> None:
        self.now_s, self.lines = 0.0, list[str]()
        self.runs = ProductionRuns(
            store.open, folder, 60.0, self.lines.append, clock=lambda: self.now_s, **options
        )

    def take(self, found: JobNumbers, after_s: float = 60.0) -> None:
        self.now_s += after_s
        self.runs.take(found)


def scored(points: list[tuple[int, dict[str, float]]]) -> list[tuple[int, float]]:
    """Return the step and the metric ``production/scored_h1`` of each logged point."""
    return [(step, metrics["production/scored_h1"]) for step, metrics in points]


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)
