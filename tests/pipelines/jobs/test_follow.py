"""Tests of streams that follow an alias: when the alias moves, the stream changes its model version.

The stream writes the window of the change to its journal, and a resumed stream changes at the same window.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
import torch

from forecaster.model import Forecaster
from forecaster.shards.models import ModelChange, Models
from pipelines.jobs.follow import ModelWatch
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import Runner
from pipelines.jobs.registered_alias import AliasedVersion, RegisteredAlias
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Step
from pipelines.sources.model_changes import Request, load_model, read_changes, request_change, store_model
from pipelines.state import state_table
from schemas.errors import ModelError
from tests.comparisons import YOUNG, assert_same_frames
from tests.fleets import HALF_A_DAY, SHORT_WEEK, forecaster
from tests.folds import fold
from tests.logs import LogSource, job_of, small_log
from tests.partitions import Log
from tests.stores import in_memory

OLD, NEW = forecaster(**SHORT_WEEK), forecaster("gru", seed=3, **SHORT_WEEK)
PATIENCE_S = 30.0


@dataclass
class FakeAlias(RegisteredAlias):
    """A fake registry alias that names the last version in ``versions``.

    It records the versions that a stream refuses.
    """

    versions: list[Forecaster]
    is_away: bool = False
    goes_away_on_load: bool = False
    polls: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return "weather@champion"

    def current(self) -> AliasedVersion:
        self.polls += 1
        if self.is_away:
            raise ModelError("no MLflow server answers")
        return AliasedVersion(f"weather/{len(self.versions)}", self.versions[-1].version)

    def load(self, model: str) -> Forecaster:
        if self.goes_away_on_load:
            self.is_away = True
            raise ModelError("no MLflow server answers")
        return self.versions[int(model.rpartition("/")[2]) - 1]

    def with_tables(self, forecaster: Forecaster) -> Forecaster:
        return forecaster

    def refuse(self, model: str, reason: str) -> None:
        self.refused.append((model, reason))


@dataclass(frozen=True)
class GatedSource(LogSource):
    """A source that returns no batch from offset ``gate`` on until ``is_open`` returns True.

    It waits until ``until_s`` at the latest, so that a test fails instead of waiting for ever.
    """

    gate: int = 0
    is_open: Callable[[], bool] = lambda: True
    until_s: float = field(default_factory=lambda: time.monotonic() + PATIENCE_S)

    def step(self, offset: int) -> Step[int] | None:
        if offset >= self.gate and not self.is_open() and time.monotonic() < self.until_s:
            return Step((), offset, 0.01)
        return super().step(offset)


def watch(alias: FakeAlias, output: Path, notices: list[str], *, follows: bool = True) -> ModelWatch:
    return ModelWatch(alias, follows, OLD, output, notices.append, poll_s=0.0)


def expected_frames(log: Log, window: int) -> pl.DataFrame:
    """Return the forecasts of a log: by `OLD` in windows before ``window``, by `NEW` from ``window`` on."""
    ran = fold(Models(OLD, (ModelChange(window, NEW),)), log.batches(), partitions=(log.partition,))
    frames = [part.frame() for part in ran.forecasts if part is not None and len(part)]
    return pl.concat(frames).sort("issued_at", "series_id")


def test_a_stream_changes_its_version_at_the_journaled_window(tmp_path: Path) -> None:
    log, scale = small_log(windows=24, every=8)
    store_model(tmp_path, NEW)
    request_change(tmp_path, Request(NEW.version, "weather/2", 4))
    # Use eight shards, so that some have no series: these shards must change their version, too.
    outcome = run_stream(replace(job_of(log, tmp_path, shards=8), follows=True, model="weather/1"))
    first, change = read_changes(tmp_path / "state")
    assert (first.version, first.model, first.window) == (OLD.version, "weather/1", None)
    assert (change.version, change.model) == (NEW.version, "weather/2")
    assert change.window is not None
    issued = read_forecasts(tmp_path)
    last_of_old_us = HALF_A_DAY.end_us(change.window - 1)
    is_old = pl.col("issued_at").dt.epoch("us") <= last_of_old_us
    assert set(issued.filter(is_old)["model_version"]) == {OLD.version}
    assert set(issued.filter(~is_old)["model_version"]) == {NEW.version}
    assert_same_frames(expected_frames(log, change.window), issued, scale, within=YOUNG)
    assert outcome.counts.missing == 0
    assert {shard.state.model_version for shard in state_table.read(tmp_path / "state").shards} == {
        NEW.version
    }


def test_streams_into_an_object_store_apply_requested_model_changes() -> None:
    log, scale = small_log(windows=24, every=8)
    with in_memory() as store:
        store_model(store, NEW)
        request_change(store, Request(NEW.version, "weather/2", 4))
        run_stream(replace(job_of(log, store), follows=True))
        window = read_changes(store / "state")[1].window
        assert window is not None
        assert_same_frames(expected_frames(log, window), read_forecasts(store), scale, within=YOUNG)


def test_a_resumed_stream_keeps_the_version_that_it_changed_to(tmp_path: Path) -> None:
    log, scale = small_log(windows=24, every=8)
    store_model(tmp_path, NEW)
    request_change(tmp_path, Request(NEW.version, "weather/2", 6))
    every = sorted(log.watermarks_us)
    used: list[str] = []
    # The first run is given `OLD`. The resumed runs are given `NEW`, but `OLD` must still step the windows
    # before the journaled window.
    for stop, given in ((every[2], OLD), (every[5], NEW), (every[-1], NEW)):
        run_stream(replace(job_of(log, tmp_path, stop=stop), follows=True, forecaster=given))
        used.append(state_table.read(tmp_path / "state").state.model_version)
    assert used == [OLD.version, NEW.version, NEW.version]
    window = read_changes(tmp_path / "state")[1].window
    assert window is not None
    assert_same_frames(expected_frames(log, window), read_forecasts(tmp_path), scale, within=YOUNG)


def test_resuming_without_follow_removes_the_journal_of_model_changes(tmp_path: Path) -> None:
    log, _ = small_log(windows=24, every=8)
    store_model(tmp_path, NEW)
    request_change(tmp_path, Request(NEW.version, "weather/2", 1))
    every = sorted(log.watermarks_us)
    run_stream(replace(job_of(log, tmp_path, stop=every[4]), follows=True))
    run_stream(job_of(log, tmp_path))
    assert read_changes(tmp_path / "state") == ()
    assert state_table.read(tmp_path / "state").state.model_version == OLD.version


@pytest.mark.parametrize("runner", ["in-process", "prism"])
def test_a_stream_follows_an_alias_that_moves_while_it_runs(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.jobs.follow.POLL_S", 0.1)
    log, scale = small_log(windows=24, every=8)
    alias, notices, seen = FakeAlias([OLD]), list[str](), list[JobNumbers]()
    every = sorted(log.watermarks_us)
    journal = tmp_path / "state" / "models.json"

    def move_alias(numbers: JobNumbers) -> None:
        seen.append(numbers)
        if alias.polls and numbers.counts.rows_in and len(alias.versions) == 1:
            alias.versions.append(NEW)

    source = GatedSource(log, log.stop, gate=every[3], is_open=Gate(journal))
    job = replace(job_of(log, tmp_path), source=source, runner=runner, alias=alias, follows=True, shards=2)
    run_stream(job, move_alias, notices.append)
    window = read_changes(tmp_path / "state")[1].window
    assert window is not None
    assert_same_frames(expected_frames(log, window), read_forecasts(tmp_path), scale, within=YOUNG)
    assert seen[-1].model_versions == (NEW.version,)
    assert any(f"weather/2 ({NEW.version}) is in use from" in line for line in notices)


@dataclass(frozen=True)
class Gate:
    """Function object that returns True if the journal has a model change after its first record.

    The object can be pickled. The first record is the version with which the stream begins.
    """

    journal: Path

    def __call__(self) -> bool:
        return len(read_changes(self.journal.parent)) > 1


def test_without_stream_follow_a_moved_alias_is_reported_once(tmp_path: Path) -> None:
    notices: list[str] = []
    alias = FakeAlias([OLD, NEW])
    watching = watch(alias, tmp_path, notices, follows=False)
    watching.poll()
    watching.poll()
    moved = f"weather@champion is now weather/2 ({NEW.version})"
    line = f"{moved}; this stream keeps {OLD.version}: start it again"
    assert notices == [f"{line}, or set stream.follow"]
    assert watching.take(JobNumbers()).as_json(0.0)["model_notice"] == notices[0]
    assert not (tmp_path / ".model-request").exists()


def test_each_outage_of_the_registry_server_is_reported_once(tmp_path: Path) -> None:
    notices: list[str] = []
    alias = FakeAlias([OLD], is_away=True)
    watching = watch(alias, tmp_path, notices)
    watching.poll()
    watching.poll()
    assert notices == [
        "the stream keeps its model while weather@champion cannot be read: no MLflow server answers"
    ]
    alias.is_away = False
    watching.poll()
    alias.is_away = True
    watching.poll()
    assert len(notices) == 2


def test_a_load_that_a_server_failure_interrupts_is_retried(tmp_path: Path) -> None:
    notices: list[str] = []
    alias = FakeAlias([OLD, NEW], goes_away_on_load=True)
    watching = watch(alias, tmp_path, notices)
    watching.poll()
    assert alias.refused == []
    assert not (tmp_path / ".model-request").exists()
    alias.goes_away_on_load = alias.is_away = False
    watching.poll()
    assert (tmp_path / ".model-request").exists()


@pytest.mark.parametrize(("freq", "windows"), [("12h", 2), ("1min", 3), ("1s", 16)])
def test_model_changes_are_requested_enough_windows_ahead_to_rewarm(
    tmp_path: Path, freq: str, windows: int
) -> None:
    old, new = (forecaster(seed=seed, freq=freq, ring=16) for seed in (0, 1))
    watching = replace(watch(FakeAlias([new]), tmp_path, []), forecaster=old)
    # a re-warm of these 100,000 series steps each one through the 16 windows of its ring
    watching.take(JobNumbers(series=100_000))
    watching.poll()
    assert json.loads((tmp_path / ".model-request").read_text())["windows_ahead"] == windows


def broken(model: Forecaster) -> Forecaster:
    """Set all weights of the network of ``model`` to NaN, and return a new forecaster with this network.

    The forecaster is new, because a forecaster computes its version from the weights only once.
    """
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.fill_(float("nan"))
    return replace(model)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: forecaster("gru", freq="1h", ring=16),
            "its windows.freq is 1h, and the windows.freq of the",
        ),
        (
            lambda: forecaster("gru", horizon=4, **SHORT_WEEK),
            "its network.horizon is 4, and that of the stream",
        ),
        (lambda: forecaster("gru", aggregate="sum", **SHORT_WEEK), "its windows.aggregate is sum"),
        (
            lambda: forecaster("gru", observed=("heat",), **SHORT_WEEK),
            "its observed covariates are heat, and",
        ),
        (lambda: broken(forecaster("rnn", seed=77, **SHORT_WEEK)), "its forecasts are not finite"),
    ],
)
def test_an_unsuitable_model_version_is_refused_with_a_reason(
    tmp_path: Path, make: Callable[[], Forecaster], reason: str
) -> None:
    notices: list[str] = []
    alias = FakeAlias([OLD, make()])
    watching = watch(alias, tmp_path, notices)
    watching.poll()
    watching.poll()
    assert [model for model, _ in alias.refused] == ["weather/2"]
    assert alias.refused[0][1].startswith(reason)
    assert notices == [watching.take(JobNumbers()).model_notice]
    assert reason in notices[0]
    assert not (tmp_path / ".model-request").exists()


def test_a_suitable_version_is_requested_after_a_refused_version(tmp_path: Path) -> None:
    notices: list[str] = []
    alias = FakeAlias([OLD, forecaster("gru", horizon=4, **SHORT_WEEK)])
    watching = watch(alias, tmp_path, notices)
    watching.poll()
    alias.versions.append(NEW)
    watching.poll()
    assert (tmp_path / ".model-request").exists()
    assert load_model(tmp_path, NEW.version).version == NEW.version
    assert watching.take(JobNumbers()).model_notice == ""
