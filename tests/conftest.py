"""Settings of all tests: the number of Hypothesis examples, and one thread for torch."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "statecast",
    deadline=None,  # no time limit for an example, because the machine may be busy with other work
    derandomize=bool(os.environ.get("CI")),  # equal examples in each CI run, new examples in other runs
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("statecast")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread: for networks of width 8, threads cost more time than they save."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
