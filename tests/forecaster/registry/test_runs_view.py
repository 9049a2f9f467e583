"""Tests of the tag with the view of an experiment's runs, which several processes may write at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from forecaster.registry.runs_view import store_view


class FailingClient:
    """A fake MLflow client; each call that sets a tag raises an error, although it may store the tag."""

    def __init__(self, *, stores: bool) -> None:
        self.stores = stores
        self.tags: dict[str, str] = {}

    def get_experiment(self, experiment_id: str) -> Any:
        return SimpleNamespace(tags=dict(self.tags))

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        if self.stores:
            self.tags[key] = value
        raise MlflowException("UNIQUE constraint failed: experiment_tags.key")


def test_a_view_that_another_process_stored_meanwhile_is_kept() -> None:
    client: Any = FailingClient(stores=True)
    store_view(client, "1")
    (tag,) = client.tags
    assert tag.startswith("mlflow.sharedViewState")


def test_an_error_of_the_store_is_raised_if_the_view_is_missing() -> None:
    client: Any = FailingClient(stores=False)
    with pytest.raises(MlflowException, match="UNIQUE"):
        store_view(client, "1")
