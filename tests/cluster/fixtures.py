"""Fixtures for tests that need a broker; a conftest.py imports them for the tests of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipelines.runners import java
from schemas.errors import EngineError
from tests.cluster.broker import Broker


def needs(*parts: Callable[[], object]) -> None:
    """Skip the test if Java is missing, or if one of the functions in ``parts`` raises an `EngineError`."""
    try:
        for part in (java.find_java, *parts):
            part()
    except EngineError as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start a real Kafka broker for all tests of the session; each test creates its own topics."""
    needs(java.setup_kafka)
    with Broker.start(tmp_path_factory.mktemp("kafka")) as started:
        yield started
