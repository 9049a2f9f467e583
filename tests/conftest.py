"""What all tests share: how long Hypothesis looks, and small machines that are not fought over."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "statecast",
    deadline=None,  # two cores, shared: a slow example is not a wrong one
    derandomize=bool(os.environ.get("CI")),  # CI sees the same examples every time, a desk new ones
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("statecast")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks of width 8 gain nothing from threads and lose much to waiting for them."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
