"""Tests of choosing the window at which a stream changes its model version, and of the journal of changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.sources.base import Position, Positions, Step
from pipelines.sources.model_changes import (
    Change,
    ChangingLog,
    Request,
    begin_changes,
    load_model,
    model_changes,
    read_changes,
    remove_changes,
    request_change,
    store_model,
)
from pipelines.storage import store_of
from schemas.errors import DataError, ModelError
from tests.fleets import HOUR, HOUR_US, START, forecaster


@dataclass
class Steps:
    """A log that returns one batch in each step. Each batch moves the watermark forward by one window."""

    at: int = 0
    places: Positions = field(default_factory=dict)
    is_paced: bool = False

    def begin(self, reached: Positions) -> Positions:
        return {"rows": Position(0)}

    def step(self, places: Positions) -> Step[Positions] | None:
        self.at += 1
        batch = replace(empty_batch("rows", 0), watermark_us=(START + self.at) * HOUR_US)
        return Step((batch,), self.places)


@pytest.fixture
def states(tmp_path: Path) -> Path:
    store_of(tmp_path / "state").make_folder()
    (tmp_path / ".run").write_text("a run")
    begin_changes(tmp_path / "state", "lstm-a", "m/1")
    return tmp_path / "state"


def changing(states: Path, closed_through: int | None = None, run: str = "a run") -> ChangingLog:
    return ChangingLog(Steps(), states.parent, states, HOUR, run, closed_through)


def batch_of(log: ChangingLog) -> Batch:
    step = log.step({"rows": Position(0)})
    assert step is not None
    return step.batches[0]


def test_a_model_change_is_journaled_before_the_next_batch(states: Path) -> None:
    log = changing(states)
    assert batch_of(log).changes == 1
    log._checked_s = float("-inf")
    request_change(states.parent, Request("gru-b", "m/2", 5))
    assert batch_of(log).changes == 2
    # The first batch moved the watermark to START + 1, so some shard may already have closed window START.
    # The first window that is certainly open is START + 1, and the request is for 5 windows later.
    change = Change("gru-b", "m/2", START + 1 + 5)
    assert read_changes(states) == (Change("lstm-a", "m/1", None), change)
    # A job that reads the log again finds the change in the journal.
    assert batch_of(changing(states)).changes == 2


def test_a_model_change_is_journaled_only_after_a_watermark(states: Path) -> None:
    request_change(states.parent, Request("gru-b", "m/2", 5))
    log = changing(states)
    assert batch_of(log).changes == 1
    assert batch_of(log).changes == 2


def test_a_model_change_takes_effect_after_all_closed_windows(states: Path) -> None:
    request_change(states.parent, Request("gru-b", "m/2", 2))
    log = changing(states, closed_through=START + 100)
    for _ in range(2):
        batch_of(log)
    assert read_changes(states)[-1].window == START + 101 + 2


def test_a_resumed_stream_changes_models_after_the_furthest_watermark(states: Path) -> None:
    request_change(states.parent, Request("gru-b", "m/2", 2))
    place = Position(0, (START + 50) * HOUR_US, (), (START + 60) * HOUR_US)
    assert changing(states).step({"rows": place}) is not None
    assert read_changes(states)[-1].window == START + 60 + 2


def test_a_second_model_change_is_later_than_the_first(states: Path) -> None:
    log = changing(states)
    batch_of(log)
    for version, ahead in (("gru-b", 50), ("lstm-a", 2)):
        request_change(states.parent, Request(version, "m", ahead))
        log._checked_s = float("-inf")
        batch_of(log)
    windows = [change.window for change in read_changes(states)]
    assert windows == [None, START + 51, START + 51 + 1 + 2]


def test_a_request_for_the_version_in_use_is_ignored(states: Path) -> None:
    request_change(states.parent, Request("lstm-a", "m/1", 2))
    log = changing(states)
    assert [batch_of(log).changes for _ in range(3)] == [1, 1, 1]


def test_only_the_owner_of_an_output_decides_model_changes(states: Path) -> None:
    request_change(states.parent, Request("gru-b", "m/2", 2))
    log = changing(states, run="an earlier run")
    assert [batch_of(log).changes for _ in range(2)] == [1, 1]
    assert len(read_changes(states)) == 1


def test_a_damaged_journal_is_refused_and_names_its_file(states: Path) -> None:
    path = states / "models.json"
    record = json.loads(path.read_text())
    record["changes"][0]["version"] = "another"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"models\.json: cannot be read .*checksum.*restore the file"):
        read_changes(states)
    remove_changes(states)
    assert read_changes(states) == ()


def test_stored_models_load_with_their_version_and_covariates(tmp_path: Path) -> None:
    for model in (forecaster(), forecaster(decoder=True)):
        store_model(tmp_path, model)
        loaded = load_model(tmp_path, model.version)
        assert loaded.version == model.version
        assert loaded.covariates.features == model.covariates.features
    changes = (Change("lstm-a", "m/1", None), Change(forecaster().version, "m/2", 7))
    assert [(c.window, c.forecaster.version) for c in model_changes("run", tmp_path, changes)] == [
        (7, forecaster().version)
    ]


def test_an_error_names_the_missing_or_damaged_weight_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gru-b\.safetensors: cannot be read"):
        load_model(tmp_path, "gru-b")
    store_of(tmp_path / "models").make_folder()
    (tmp_path / "models" / "gru-b.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ModelError, match=r"gru-b\.safetensors: "):
        load_model(tmp_path, "gru-b")


def test_an_error_names_the_missing_or_damaged_covariate_file(tmp_path: Path) -> None:
    model = forecaster(decoder=True)
    store_model(tmp_path, model)
    covariates = tmp_path / "models" / f"{model.version}.covariates"
    covariates.write_bytes(b"x" * 40)
    with pytest.raises(ModelError, match=rf"{covariates.name}: "):
        load_model(tmp_path, model.version)
    covariates.unlink()
    with pytest.raises(DataError, match=rf"{covariates.name}: cannot be read"):
        load_model(tmp_path, model.version)
