"""Fixtures for tests of the cluster: a broker, two new topics in it, and a fleet."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from forecaster.time.windows import Windows
from tests.cluster.broker import Broker
from tests.cluster.fixtures import broker
from tests.cluster.streams import WINDOWS, create_topics
from tests.fleets import START

__all__ = ["broker"]


@pytest.fixture(scope="module")
def fleet() -> Windows:
    """Return twenty series without gaps."""
    values = np.random.default_rng(5).normal(size=(WINDOWS, 20)).cumsum(0)
    return Windows(tuple(f"series {i}" for i in range(20)), START, values)


@pytest.fixture
def topics(broker: Broker) -> tuple[str, str]:
    """Make two topics with four partitions each, one to read and one to write, and return their names."""
    names = f"in-{uuid4().hex[:8]}", f"out-{uuid4().hex[:8]}"
    create_topics(broker, *names)
    return names
