"""What tests of the cluster share: a broker, two new topics in it, and a fleet."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from forecaster.time.windows import Windows
from tests.cluster.broker import Broker
from tests.cluster.fixtures import broker
from tests.cluster.streams import WINDOWS, make
from tests.fleets import START

__all__ = ["broker"]


@pytest.fixture(scope="module")
def fleet() -> Windows:
    """Twenty series without a gap."""
    values = np.random.default_rng(5).normal(size=(WINDOWS, 20)).cumsum(0)
    return Windows(tuple(f"series {i}" for i in range(20)), START, values)


@pytest.fixture
def topics(broker: Broker) -> tuple[str, str]:
    """Two new topics, of four partitions each: one to read and one to write."""
    mine = f"in-{uuid4().hex[:8]}", f"out-{uuid4().hex[:8]}"
    make(broker, *mine)
    return mine
