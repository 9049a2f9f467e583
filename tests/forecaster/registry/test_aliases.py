"""Tests of aliases in the registry, such as ``champion``, each of which names a model version.

Each move of an alias to another version is recorded; a rollback undoes the last move. Old records are
deleted above a limit.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.registry.aliases import MOST_MOVES, Move, previous_version, training_tags
from forecaster.registry.registry import Registry
from schemas.errors import ModelError
from tests.forecaster.registry.models import forecaster, history


def move(number: int, before: int | None, after: int, *, is_rollback: bool = False) -> Move:
    return Move(number, "2026-01-01T00:00:00+00:00", "someone", before, after, "why", is_rollback)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 60))
def test_rollbacks_undo_promotions_from_the_newest_to_the_oldest(actions: list[int], kept: int) -> None:
    # An action is the number of a version to promote, or 0 for a rollback. ``stack`` ends with the current
    # version: a promotion appends a version, and a rollback removes the last version.
    stack: list[int] = []
    moves: list[Move] = []
    for action in actions:
        before = stack[-1] if stack else None
        is_rollback = action == 0
        if action == before or (is_rollback and len(stack) < 2):
            continue
        stack = stack[:-1] if is_rollback else [*stack, action]
        moves.append(move(len(moves) + 1, before, stack[-1], is_rollback=is_rollback))
    if not stack:
        assert previous_version(moves, 1) is None
        return
    expected = stack[-2] if len(stack) > 1 else None
    assert previous_version(moves, stack[-1]) == expected
    # Without the oldest moves, `previous_version` returns the right version or None (unknown).
    assert previous_version(moves[-kept:], stack[-1]) in (expected, None)


def test_rollback_from_unrecorded_version_selects_the_last_recorded_version() -> None:
    assert previous_version([move(1, None, 1), move(2, 1, 2)], 5) == 2
    assert previous_version([], 5) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a store with three versions of the model ``weather``, without aliases."""
    folder = tmp_path_factory.mktemp("store")
    registry = Registry(f"sqlite:///{folder}/mlflow.db", "tests", unsent=folder / "unsent")
    until = datetime(2026, 1, 2, tzinfo=UTC)
    for seed in range(3):
        with registry.start_run("one", {}) as run:
            run.log_model(forecaster(seed), "weather", history(3), training_tags(until) if seed else {})
    return registry


def test_a_promotion_and_its_rollback_are_recorded_as_tags(store: Registry) -> None:
    store.promote("weather/1", "used", "it is\nthe first")
    store.promote("weather/2", "used", "it is better")
    store.promote("weather/2", "used", "a move to the same version is no move")
    moved = store.aliases.rollback("weather", "used", "coverage fell")
    assert moved.previous is not None
    assert (str(moved.previous), str(moved.version)) == ("weather/2", "weather/1")
    moves = store.aliases.moves("weather", "used")
    assert [(one.number, one.before, one.after, one.is_rollback) for one in moves] == [
        (1, None, 1, False),
        (2, 1, 2, False),
        (3, 2, 1, True),
    ]
    assert [one.why for one in moves] == [
        "it is the first",
        "it is better",
        "rollback from weather/2: coverage fell",
    ]
    assert all(one.by and datetime.fromisoformat(one.at).tzinfo for one in moves)
    with pytest.raises(ModelError, match="weather@used is weather/1, and no earlier version is recorded"):
        store.aliases.rollback("weather", "used")


def test_only_the_newest_moves_of_an_alias_are_kept(store: Registry) -> None:
    for number in range(MOST_MOVES + 3):
        store.promote(f"weather/{number % 3 + 1}", "busy")
    moves = store.aliases.moves("weather", "busy")
    assert [one.number for one in moves] == list(range(4, MOST_MOVES + 4))
    store.promote("weather/1", "busy-too")
    assert store.aliases.moves("weather", "busy") == moves


def test_the_error_of_a_rollback_names_the_missing_alias_or_model(store: Registry) -> None:
    for name, alias, message in (
        ("weather", "nobody", "weather has no alias nobody: set one with statecast promote"),
        ("wether", "used", "no model 'wether' is registered .* did you mean weather"),
        ("weather/1", "used", "'weather/1' cannot name a model"),
    ):
        with pytest.raises(ModelError, match=message):
            store.aliases.rollback(name, alias)


def test_a_decision_replaces_the_earlier_one_in_the_description(store: Registry) -> None:
    import mlflow

    client = mlflow.MlflowClient(store.tracking_uri, registry_uri=store.tracking_uri)
    client.update_model_version("weather", "1", "an LSTM")
    version = store.aliases.find("weather/1")
    for text in ("Refused: worse.", "Replaces weather/2, from https://me:secret@host."):
        store.aliases.write_decision(version, text)
    described = str(client.get_model_version("weather", "1").description)
    assert described.startswith("an LSTM\n\n**Decision of ")
    assert "Refused" not in described
    assert described.endswith("Replaces weather/2, from https://***@host.")


def test_the_end_of_the_training_data_is_read_from_tags(store: Registry, tmp_path: Path) -> None:
    assert store.aliases.trained_until("weather/1") is None
    assert store.aliases.trained_until("weather/2") == datetime(2026, 1, 2, tzinfo=UTC)
    forecaster().save(tmp_path / "saved")
    assert store.aliases.trained_until(str(tmp_path / "saved")) is None
