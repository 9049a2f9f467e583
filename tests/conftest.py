"""Settings of all tests: Hypothesis, garbage collection, threads of torch, and stores of MLflow."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "statecast",
    deadline=None,  # no time limit for an example, because the machine may be busy with other work
    # CI runs use the same examples each time, other runs use new examples
    derandomize=bool(os.environ.get("CI")),
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("statecast")


# A full garbage collection visits the million objects of the imported modules and the tests.
# So the garbage collector runs less often here than by default.
gc.set_threshold(5_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread: for networks of width 8, threads cost more time than they save."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make each new MLflow store a copy of one store, which all workers of pytest-xdist share."""
    if "forecaster.registry.new_store" in sys.modules:
        from tests.copied_stores import copy_new_stores

        base = tmp_path_factory.getbasetemp()
        copy_new_stores(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(autouse=True)
def _no_mlflow_settings_left() -> Iterator[None]:
    """Restore MLflow's settings after each test: the settings are global, so later tests would use them.

    ``mlflow.set_experiment`` and ``mlflow.set_tracking_uri`` also set environment variables.
    """
    before = mlflow_variables()
    yield
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is not None:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    for name in mlflow_variables():
        del os.environ[name]
    os.environ.update(before)


def mlflow_variables() -> dict[str, str]:
    """Return the environment variables whose names begin with ``MLFLOW_``."""
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
